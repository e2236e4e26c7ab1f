"""Fill rows with chunks of fragments, in compiled code; see ``chunk_packing`` for the terms.

Arrays of fragments: ``lengths`` with context, ``bodies`` without. Arrays of long conversations: ``at`` is
the first fragment not yet placed, ``stops`` the one after the last. Cost: tens of microseconds per row that
holds a part of a long conversation, because every conversation of the window is searched for every chunk.
"""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.packing.chunk_gain import (
    best_chunk,
    chunk_length,
    first_chunk,
    longest_whole,
    most_fragments,
    repeated_at,
)

WINDOW = 128
"""Long conversations that are searched for the best chunk."""
ENOUGH = 32
"""Remainders of conversations, of half a row at most, that pack well without being split."""


@njit
def longest_chunks(lengths, bodies, starts, stops, seq_len):  # type: ignore[no-untyped-def]
    """Chunks that each take all the fragments that fit: first fragment and number of fragments."""
    first = np.empty(len(lengths), np.int32)
    count = np.empty(len(lengths), np.int32)
    num_chunks = 0
    for conversation in range(len(starts)):
        fragment = starts[conversation]
        while fragment < stops[conversation]:
            first[num_chunks] = fragment
            count[num_chunks] = most_fragments(lengths, bodies, fragment, stops[conversation], seq_len)
            fragment += count[num_chunks]
            num_chunks += 1
    return first[:num_chunks], count[:num_chunks]


@njit
def fill_rows(lengths, bodies, starts, stops, whole, seq_len, fill_weight):  # type: ignore[no-untyped-def]
    """Rows of chunks of long conversations, and of whole conversations (sorted by length) that fit best.

    Returns first fragment, number of fragments and row of each chunk, the free places of each row, which
    whole conversations are used, and the remainders (first fragment, number of fragments).
    """
    first = np.empty(len(lengths), np.int32)
    count = np.empty(len(lengths), np.int32)
    row = np.empty(len(lengths), np.int32)
    free = np.empty(len(lengths), np.int32)
    num_chunks = num_rows = 0
    used = np.zeros(len(whole), np.bool_)
    begin, left, down = _whole_by_length(lengths, whole, seq_len)
    at = starts.copy()
    tokens_left, long_total = _token_counts(lengths, bodies, starts, stops)
    big_total = np.int64(0)
    for one in whole:
        big_total += lengths[one] if 2 * lengths[one] > seq_len else 0
    long_left, big_left = long_total, big_total
    # numpy's functions for such arrays take seconds to compile; loops do not.
    conversations = np.empty(WINDOW, np.int64)
    size, fresh = _slide_window(conversations, 0, at, stops, 0)
    window = conversations[:size]
    while len(window):
        if fill_weight > 1 or fresh == len(starts):
            _longest_first(window, tokens_left)
        base = window[0]
        if fresh == len(starts) and len(window) >= ENOUGH and tokens_left[base] <= seq_len // 2:
            break
        budget = seq_len
        # Whole conversations of more than half a row begin rows in turn with the long ones: at the end
        # nothing would be left to share a row with them.
        chosen, size = base, longest_whole(down, seq_len)
        if 2 * size > seq_len and float(big_left) * long_total > float(long_left) * big_total:
            num_fragments = 0
        else:
            num_fragments = first_chunk(lengths, bodies, at, stops, window, down, seq_len, fill_weight)
            size = chunk_length(lengths, bodies, at[chosen], num_fragments)
        while size > 0:
            if num_fragments > 0:
                first[num_chunks], count[num_chunks] = at[chosen], num_fragments
                tokens_left[chosen] -= size
                at[chosen] += num_fragments
                repeated = repeated_at(lengths, bodies, at[chosen], stops[chosen])
                tokens_left[chosen] += repeated
                long_left -= size - repeated
            else:
                left[size] -= 1
                taken = begin[size] + left[size]
                used[taken] = True
                if left[size] == 0:
                    down[size] = size - 1
                first[num_chunks], count[num_chunks] = whole[taken], 1
                big_left -= size if 2 * size > seq_len else 0
            row[num_chunks] = num_rows
            num_chunks += 1
            budget -= size
            chosen, num_fragments, size, _ = best_chunk(
                lengths, bodies, at, stops, window, down, budget, fill_weight
            )
        free[num_rows] = budget
        num_rows += 1
        size, fresh = _slide_window(conversations, len(window), at, stops, fresh)
        window = conversations[:size]
    ends = _remainders(window, at, stops)
    return first[:num_chunks], count[:num_chunks], row[:num_chunks], free[:num_rows], used, ends


@njit_helper
def _token_counts(lengths, bodies, starts, stops):  # type: ignore[no-untyped-def]
    """Tokens of each long conversation, and of all."""
    counts, total = np.empty(len(starts), np.int64), np.int64(0)
    for conversation in range(len(starts)):
        fragments = stops[conversation] - starts[conversation]
        counts[conversation] = chunk_length(lengths, bodies, starts[conversation], fragments)
        total += counts[conversation]
    return counts, total


@njit_helper
def _remainders(window, at, stops):  # type: ignore[no-untyped-def]
    """First fragment and number of fragments of what is left of each conversation."""
    first, count = np.empty(len(window), at.dtype), np.empty(len(window), at.dtype)
    number = 0
    for conversation in window:
        if at[conversation] < stops[conversation]:
            first[number] = at[conversation]
            count[number] = stops[conversation] - at[conversation]
            number += 1
    return first[:number], count[:number]


@njit_helper
def _slide_window(window, size, at, stops, fresh):  # type: ignore[no-untyped-def]
    """Drop conversations that are used up and add fresh ones; returns the size and the next fresh one."""
    filled = 0
    for index in range(size):
        if at[window[index]] < stops[window[index]]:
            window[filled] = window[index]
            filled += 1
    while filled < len(window) and fresh < len(stops):
        window[filled] = fresh
        filled += 1
        fresh += 1
    return filled, fresh


@njit_helper
def _longest_first(window, tokens_left):  # type: ignore[no-untyped-def]
    """Move the conversation with most tokens left to the front, so that all end at about the same time."""
    longest = 0
    for index in range(1, len(window)):
        if tokens_left[window[index]] > tokens_left[window[longest]]:
            longest = index
    window[0], window[longest] = window[longest], window[0]


@njit_helper
def _whole_by_length(lengths, whole, seq_len):  # type: ignore[no-untyped-def]
    """For each length: where its conversations begin, how many there are, the next length that occurs."""
    left = np.zeros(seq_len + 1, np.int32)
    for one in whole:
        left[lengths[one]] += 1
    begin, down = np.zeros(seq_len + 1, np.int64), np.zeros(seq_len + 1, np.int64)
    for length in range(1, seq_len + 1):
        begin[length] = begin[length - 1] + left[length - 1]
        down[length] = length
        if left[length] == 0:
            down[length] = length - 1
    return begin, left, down
