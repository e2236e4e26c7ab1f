"""Hash table of the word cache, compiled.

A row is a header, up to 8 ids, and the word: one cache line for words of up to 24 bytes, two lines in a
second table for words of up to 88. Open addressing with linear probing; rows are never removed one by one.
Words are compared in full, not by their hash.

Rows are prefetched: they are read once for all words of a segment before they are used, so that many cache
misses overlap. The caller allocates table and buffers, and nothing here checks a bound: see ``word_cache``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit_helper
from gemfit.data.hash_constants import GOLDEN_RATIO

# A row in units of 64 bits: 1 for the header, 4 for ids, and the word.
ROW = 8
LONG_ROW = 16
WORD_BYTES = 24
LONG_BYTES = 88
WORD_IDS = 8
PADDING = 24
"""Bytes that may be read past the end of a text."""
_IDS = 1
_KEY = 5

# Header: the number of bytes, and above it the number of ids, or this mark: more ids than fit.
EMPTY = np.uint64(0)
UNCACHED = np.uint64(255)

_LOW = np.uint64(0xFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_HALF = np.uint64(0xFFFFFFFF)
_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_32 = np.uint64(32)
_SPACE, _SPACES, _TWO, _ASCII = np.uint64(0x20), np.uint64(0x2020), np.uint64(0xFFFF), np.uint64(128)
# Odd numbers with well-mixed bits, used with the golden ratio.
_MIX1 = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX2 = np.uint64(0x165667B19E3779F9)
_MIX3 = np.uint64(0xD6E8FEB86659FD93)


def _masks() -> NDArray[np.uint64]:
    """(WORD_BYTES + 1, 3): masks of the bytes of three windows that belong to a word, by its length."""
    inside = np.arange(WORD_BYTES) < np.arange(WORD_BYTES + 1)[:, None]
    return np.where(inside, 255, 0).astype(np.uint8).view(np.dtype("<u8")).astype(np.uint64)


MASKS = _masks()


@njit_helper
def prefetch_rows(  # type: ignore[no-untyped-def]
    table, long_start, windows, masks, splittable_runs, start, word_ends, count, split_ends, rows
):
    """Find the home row of each short word and read it once, which prefetches it.

    A run of spaces becomes a word of its own where that is exact. ``split_ends`` gets the ends of the words;
    returns how many there are.
    """
    last = np.uint64(long_start // ROW - 1)
    seen, made, number = _0, 0, 0
    while number < count:
        end = word_ends[number]
        if windows[start] & _TWO == _SPACES and end - start > 2:
            length = 2
            while start + length < end and windows[start + length] & _LOW == _SPACE:
                length += 1
            next_byte = windows[start + length] & _LOW
            is_splittable = length < len(splittable_runs) and splittable_runs[length]
            if is_splittable and start + length < end and next_byte < _ASCII:
                end = start + length
        size = end - start
        rows[made] = -1
        if size <= WORD_BYTES:
            mixed = (windows[start] & masks[size, 0]) * GOLDEN_RATIO
            if size > 8:  # else both are zero
                mixed ^= (windows[start + 8] & masks[size, 1]) * _MIX1
                mixed ^= (windows[start + 16] & masks[size, 2]) * _MIX2
            mixed = (mixed ^ (mixed >> _32)) * _MIX3
            row = np.int64((mixed ^ (mixed >> _32)) & last) * ROW
            seen ^= table[row]
            rows[made] = row
        split_ends[made] = end
        made += 1
        number += end == word_ends[number]
        start = end
    rows[made] = np.int64(seen >> _1)  # used, or the compiler would drop the reads
    return made


@njit_helper
def row_from(table, long_start, windows, masks, row, start, size):  # type: ignore[no-untyped-def]
    """The row of this word, or the empty row where it would be inserted; there always is an empty one."""
    key = windows[start] & masks[size, 0]
    while True:
        header = table[row]
        if header == EMPTY or (
            header & _LOW == np.uint64(size)
            and table[row + _KEY] == key
            and (
                size <= 8
                or (
                    table[row + _KEY + 1] == windows[start + 8] & masks[size, 1]
                    and table[row + _KEY + 2] == windows[start + 16] & masks[size, 2]
                )
            )
        ):
            return row
        row += ROW
        if row == long_start:
            row = 0


@njit_helper
def long_row_of(table, long_start, windows, start, size):  # type: ignore[no-untyped-def]
    """As ``row_from``, for a long word."""
    mixed = _0
    for offset in range(0, size, 8):
        mixed = (mixed ^ _window(windows, start, size, offset)) * GOLDEN_RATIO
        mixed ^= mixed >> _32
    last = np.uint64((table.shape[0] - long_start) // LONG_ROW - 1)
    number = mixed & last
    while True:
        row = long_start + np.int64(number) * LONG_ROW
        header = table[row]
        if header == EMPTY or (
            header & _LOW == np.uint64(size) and _is_word(table, row + _KEY, windows, start, size)
        ):
            return row
        number = (number + _1) & last


@njit_helper
def _window(windows, start, size, offset):  # type: ignore[no-untyped-def]
    """Eight bytes of a word, padded with zeros after its end."""
    rest = min(8, size - offset)
    return windows[start + offset] & (_ALL >> np.uint64(64 - 8 * rest))


@njit_helper
def _is_word(table, at, windows, start, size):  # type: ignore[no-untyped-def]
    """Whether the word stored at ``at`` is this one."""
    for offset in range(0, size, 8):
        if table[at + offset // 8] != _window(windows, start, size, offset):
            return False
    return True


@njit_helper
def insert(table, row, windows, start, size, ids, out, stop, free_rows):  # type: ignore[no-untyped-def]
    """Write a word and its ids into its row, if the table is not full."""
    kind = 1 if size > WORD_BYTES else 0
    if free_rows[kind] <= 0:
        return
    free_rows[kind] -= 1
    count = stop - out
    for number in range(0, min(count, WORD_IDS), 2):
        # After the last id is whatever was there; it is overwritten later, see _copy_ids.
        table[row + _IDS + (number >> 1)] = np.uint64(ids[out + number + 1]) << _32 | np.uint64(
            ids[out + number]
        )
    num_ids = np.uint64(count) if count <= WORD_IDS else UNCACHED
    table[row] = np.uint64(size) | num_ids << _8
    for offset in range(0, size, 8):
        table[row + _KEY + offset // 8] = _window(windows, start, size, offset)


@njit_helper
def copy_ids(table, row, count, ids, out):  # type: ignore[no-untyped-def]
    """Copy the ids of a cached word; how many."""
    # Most words are one token or two: two are always written, and what is too much is overwritten. A loop
    # over one or two would be mispredicted again and again.
    ids[out] = np.uint32(table[row + _IDS] & _HALF)
    ids[out + 1] = np.uint32(table[row + _IDS] >> _32)
    for number in range(2, count):
        pair = table[row + _IDS + (number >> 1)]
        ids[out + number] = np.uint32((pair >> _32) if number & 1 else (pair & _HALF))
    return count
