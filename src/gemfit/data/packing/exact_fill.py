"""Open the rows that best fit left with gaps, and fill them by exact sums of lengths.

With them some of the rows that were opened last are opened: they hold the short documents, which fit
anywhere. A row then begins with the longest document at hand; the rest is filled by the sum of lengths
that comes closest, long ones first, so that the short ones last until the end. The search of a row ends
at the first exact sum, or after ``TRIES`` sums: some 40 ns a document that is moved.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gemfit.data.packing.bitset import add, at_most, empty_set, has, remove

TRIES = 200
"""Sums that are tried for one row."""
DEPTH = 64
"""Documents after which a row is filled without looking back."""


@njit(cache=True)
def refill(lengths, order, rows, num_rows, seq_len, started, share):  # type: ignore[no-untyped-def]
    """Other rows for the documents of rows with gaps, and their number; it may be worse than before.

    ``order`` has the documents by length, longest first; ``rows`` is what best fit made of them, with
    ``num_rows`` rows, the first of which had the places ``started``. ``share`` of all documents are
    moved together with those.
    """
    number, reopened = _choose(lengths, rows, num_rows, seq_len, started, share)
    moved = np.empty(len(order), np.int32)
    counts = np.zeros(seq_len + 1, np.int32)
    num_moved = 0
    for document in order:
        if number[rows[document]] < 0:
            moved[num_moved] = document
            num_moved += 1
            counts[lengths[document]] += 1
    moved = moved[:num_moved]
    filled, num_filled = fill_exactly(moved, counts, seq_len, started[reopened])
    result = np.empty(len(rows), np.int32)
    for document in range(len(rows)):
        result[document] = number[rows[document]]
    num_kept = np.int32(len(started))
    for row in range(len(started), num_rows):
        num_kept += np.int32(number[row] >= 0)
    for index in range(num_moved):
        row = filled[index]
        fresh = num_kept + row - np.int32(len(reopened))
        result[moved[index]] = reopened[row] if row < len(reopened) else fresh
    return result, num_kept + num_filled - np.int32(len(reopened))


@njit(cache=True)
def _choose(lengths, rows, num_rows, seq_len, started, share):  # type: ignore[no-untyped-def]
    """The new number of each row, -1 where it is opened; and which of ``started`` are opened."""
    free = np.full(num_rows, seq_len, np.int32)
    free[: len(started)] = started
    held = np.zeros(num_rows, np.int32)
    for document in range(len(rows)):
        free[rows[document]] -= lengths[document]
        held[rows[document]] += 1
    number = np.empty(num_rows, np.int32)
    spare = np.int64(share * len(rows))
    for row in range(num_rows - 1, -1, -1):
        number[row] = 0
        if free[row] > 0:
            number[row] = -1
        elif spare > 0:
            number[row] = -1
            spare -= held[row]
    reopened = np.flatnonzero(number[: len(started)] < 0).astype(np.int32)
    fresh = np.int32(len(started))
    for row in range(len(started)):
        number[row] = -1 if number[row] < 0 else row
    for row in range(len(started), num_rows):
        if number[row] == 0:
            number[row] = fresh
            fresh += np.int32(1)
    return number, reopened


@njit(cache=True)
def fill_exactly(order, counts, seq_len, started):  # type: ignore[no-untyped-def]
    """The row of each document of ``order``, in that order, and how many rows there are then.

    counts: (seq_len + 1,), documents of each length.
    """
    rows = np.empty(len(order), np.int32)
    left = counts.copy()
    # next_of[l]: where in ``order`` the next document of length l stands.
    next_of = np.empty(seq_len + 1, np.int64)
    words, used = empty_set(seq_len)
    before = np.int64(0)
    for length in range(seq_len, 0, -1):
        next_of[length] = before
        before += counts[length]
        if counts[length]:
            add(words, used, length)
    chosen = np.empty(DEPTH, np.int32)
    best = np.empty(DEPTH, np.int32)
    num_rows = np.int32(0)
    done = np.int64(0)
    while done < len(order):
        if num_rows < len(started):  # the rows that are there already come first
            room = np.int64(started[num_rows])
        else:
            length = at_most(words, used, seq_len)
            room = np.int64(seq_len) - length
            done += _take(words, used, left, next_of, rows, num_rows, length)
        count = DEPTH
        while room > 0 and count == DEPTH:
            count = _closest(words, used, left, room, chosen, best)
            for index in range(count):
                room -= best[index]
                done += _take(words, used, left, next_of, rows, num_rows, best[index])
        num_rows += np.int32(1)
    return rows, max(num_rows, np.int32(len(started)))


@njit(cache=True)
def _take(words, used, left, next_of, rows, row, length):  # type: ignore[no-untyped-def]
    """Put the next document of this length into ``row``."""
    rows[next_of[length]] = row
    next_of[length] += 1
    left[length] -= 1
    if not left[length]:
        remove(words, used, length)
    return 1


@njit(cache=True)
def _closest(words, used, left, room, chosen, best):  # type: ignore[no-untyped-def]
    """Lengths, not increasing, whose sum comes closest to ``room``: their number; they are in ``best``.

    ``left`` is changed on the way and restored.
    """
    depth, rest, tries = 0, room, 0
    num_best, best_rest = 0, room
    limit = room
    while True:
        # Take the longest that fits, over and over, unless what is left can be closed at once.
        while depth < DEPTH:
            if rest <= limit and has(words, rest) and left[rest] > 0:
                length = rest
            else:
                length = _longest_left(words, used, left, min(limit, rest))
                if length < 0:
                    break
            chosen[depth] = length
            left[length] -= 1
            depth += 1
            rest -= length
            limit = length
            if rest == 0:
                break
        if rest < best_rest:
            best_rest, num_best = rest, depth
            best[:depth] = chosen[:depth]
        tries += 1
        if rest == 0 or tries >= TRIES or depth == 0:
            break
        # Go back: the last one shorter than it was; where nothing is shorter, the one before it.
        depth -= 1
        left[chosen[depth]] += 1
        rest += chosen[depth]
        limit = chosen[depth] - 1
        while depth > 0 and at_most(words, used, limit) < 0:
            depth -= 1
            left[chosen[depth]] += 1
            rest += chosen[depth]
            limit = chosen[depth] - 1
        if at_most(words, used, limit) < 0:
            break
    for index in range(depth):
        left[chosen[index]] += 1
    return num_best


@njit(cache=True)
def _longest_left(words, used, left, limit):  # type: ignore[no-untyped-def]
    """The longest length of at most ``limit`` of which one is left, or -1."""
    length = at_most(words, used, limit)
    while length > 0 and left[length] <= 0:
        length = at_most(words, used, length - 1)
    return length if length > 0 else np.int64(-1)
