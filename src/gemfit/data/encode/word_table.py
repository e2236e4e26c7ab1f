"""The hash table of the word cache, compiled: about 7 ns a byte where every word is known.

A row is one cache line: 24 bytes of the word, what is known of it, and up to 8 ids. Open addressing with
linear probing; rows are never removed one by one. Words are compared in full, not by their hash.

The rows and buffers belong to the caller, and nothing here checks a bound: see ``words``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Words = NDArray[np.uint64]

WORD_BYTES = 24
WORD_IDS = 8
ROW = 8
"""Words of 64 bits in a row: 3 of the key, 1 of what is known, 4 of ids."""

_KNOWN = 3  # The number of bytes, and above it the number of ids or one of these marks.
_IDS = 4
_EMPTY = np.uint64(0)
_PENDING = np.uint64(254)  # Missed in this call; the first of the ids is the number of the miss.
_UNCACHED = np.uint64(255)  # It has more ids than fit.

_LOW = np.uint64(0xFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_HALF = np.uint64(0xFFFFFFFF)
_8 = np.uint64(8)
_32 = np.uint64(32)
_0 = np.uint64(0)
_1 = np.uint64(1)
# Odd numbers with well-mixed bits, the first from the golden ratio.
_MIX0 = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX2 = np.uint64(0x165667B19E3779F9)
_MIX3 = np.uint64(0xD6E8FEB86659FD93)


@njit(cache=True)
def find_words(
    text: NDArray[np.uint8],
    eights: Words,
    ends: NDArray[np.int64],
    cuts: NDArray[np.bool_],
    rows: Words,
    room: int,
    ids: NDArray[np.uint32],
    stops: NDArray[np.int64],
    stop_holes: NDArray[np.int64],
    hole_at: NDArray[np.int64],
    hole_miss: NDArray[np.int64],
    miss_ends: NDArray[np.int64],
    miss_rows: NDArray[np.int64],
    missed: NDArray[np.uint8],
) -> tuple[int, int, int, int]:
    """Cut texts into words and copy the ids of known ones; a miss leaves a hole.

    ``eights[p]`` is the 8 bytes of ``text`` from ``p`` on, little end first; ``text`` has 24 bytes of
    padding. What is named after holes and misses has room for one entry a byte, ``ids`` for one more.
    ``stops`` and ``stop_holes`` (texts,) get the number of ids and of holes up to the end of each text.
    At most ``room`` words are added to the table. Returns the numbers of ids, holes, misses and new rows.
    """
    num_ids, num_holes, num_misses, missed_bytes, added, position = 0, 0, 0, 0, 0, 0
    for index in range(ends.shape[0]):
        while position < ends[index]:
            start = position
            position = _word_end(text, start, ends[index], cuts)
            size = position - start
            row, found = np.int64(-1), _EMPTY
            if size <= WORD_BYTES:
                key0, key1, key2 = _key(eights, start, size)
                row = _row_of(rows, key0, key1, key2, size)
                found = rows[row, _KNOWN] >> _8
                if found == _EMPTY and added < room:
                    rows[row, 0], rows[row, 1], rows[row, 2] = key0, key1, key2
                    rows[row, _KNOWN] = np.uint64(size) | (_PENDING << _8)
                    rows[row, _IDS] = np.uint64(num_misses)
                    added += 1
                elif found in (_EMPTY, _UNCACHED):
                    row = np.int64(-1)
            if found != _EMPTY and found < _PENDING:
                num_ids += _copy_ids(rows[row], np.int64(found), ids, num_ids)
                continue
            hole_at[num_holes] = num_ids
            if found == _PENDING:
                hole_miss[num_holes] = np.int64(rows[row, _IDS])
            else:
                hole_miss[num_holes] = num_misses
                missed_bytes = _gather(text, start, size, missed, missed_bytes)
                miss_ends[num_misses], miss_rows[num_misses] = missed_bytes, row
                num_misses += 1
            num_holes += 1
        stops[index], stop_holes[index] = num_ids, num_holes
    return num_ids, num_holes, num_misses, added


@njit(cache=True)
def _word_end(text: NDArray[np.uint8], start: int, end: int, cuts: NDArray[np.bool_]) -> int:
    before, position = text[start], start + 1
    while position < end and not cuts[before, text[position]]:
        before = text[position]
        position += 1
    return position


@njit(cache=True)
def _row_of(rows: Words, key0: np.uint64, key1: np.uint64, key2: np.uint64, size: int) -> int:
    """The row of this word, or the empty one where it would be entered; there always is an empty one."""
    last = np.uint64(rows.shape[0] - 1)
    row = _hash(key0, key1, key2) & last
    while True:
        known = rows[row, _KNOWN]
        if known == _EMPTY or (
            known & _LOW == np.uint64(size)
            and rows[row, 0] == key0
            and rows[row, 1] == key1
            and rows[row, 2] == key2
        ):
            return np.int64(row)  # type: ignore[return-value]
        row = (row + _1) & last


@njit(cache=True)
def _copy_ids(row: Words, count: int, ids: NDArray[np.uint32], at: int) -> int:
    # Most words are one token or two: both are written without asking which, and what is too much is
    # written over. A loop over one or two would be guessed wrongly by the processor, again and again.
    ids[at] = np.uint32(row[_IDS] & _HALF)
    ids[at + 1] = np.uint32(row[_IDS] >> _32)
    for number in range(2, count):
        pair = row[_IDS + (number >> 1)]
        ids[at + number] = np.uint32((pair >> _32) if number & 1 else (pair & _HALF))
    return count


@njit(cache=True)
def _gather(text: NDArray[np.uint8], start: int, size: int, missed: NDArray[np.uint8], at: int) -> int:
    for offset in range(size):
        missed[at + offset] = text[start + offset]
    return at + size


@njit(cache=True)
def _key(eights: Words, start: int, size: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """The word, filled up with zeros."""
    if size <= 8:
        return eights[start] & (_ALL >> np.uint64(64 - 8 * size)), _0, _0
    if size <= 16:
        return eights[start], eights[start + 8] & (_ALL >> np.uint64(128 - 8 * size)), _0
    return eights[start], eights[start + 8], eights[start + 16] & (_ALL >> np.uint64(192 - 8 * size))


@njit(cache=True)
def _hash(key0: np.uint64, key1: np.uint64, key2: np.uint64) -> np.uint64:
    mixed = (key0 * _MIX0) ^ (key1 * _MIX1) ^ (key2 * _MIX2)
    mixed = (mixed ^ (mixed >> _32)) * _MIX3
    return mixed ^ (mixed >> _32)


@njit(cache=True)
def learn_words(
    rows: Words, miss_rows: NDArray[np.int64], ids: NDArray[np.uint32], ends: NDArray[np.int64]
) -> None:
    """Enter the ids of the misses; ``ends`` (misses,) says where those of each end."""
    start = 0
    for miss in range(miss_rows.shape[0]):
        count = ends[miss] - start
        row = miss_rows[miss]
        if row >= 0:
            size = rows[row, _KNOWN] & _LOW
            # An id for each byte at most: find_words relies on it.
            if 0 < count <= min(WORD_IDS, np.int64(size)):
                for number in range(_IDS, ROW):
                    rows[row, number] = _0
                for number in range(count):
                    half = np.uint64(ids[start + number])
                    rows[row, _IDS + (number >> 1)] |= (half << _32) if number & 1 else half
                rows[row, _KNOWN] = size | (np.uint64(count) << _8)
            else:
                rows[row, _KNOWN] = size | (_UNCACHED << _8)
        start = ends[miss]


@njit(cache=True)
def count_ids(
    num_ids: int,
    stops: NDArray[np.int64],
    stop_holes: NDArray[np.int64],
    hole_miss: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> int:
    """Add to ``stops`` what the holes will hold; returns the number of ids in all."""
    extra, hole = 0, 0
    for index in range(stops.shape[0]):
        while hole < stop_holes[index]:
            miss = hole_miss[hole]
            extra += ends[miss] - (ends[miss - 1] if miss else 0)
            hole += 1
        stops[index] += extra
    return num_ids + extra


@njit(cache=True)
def fill_holes(
    known: NDArray[np.uint32],
    hole_at: NDArray[np.int64],
    hole_miss: NDArray[np.int64],
    ids: NDArray[np.uint32],
    ends: NDArray[np.int64],
    filled: NDArray[np.uint32],
) -> None:
    """Copy known ids, and those of the misses where they belong."""
    source, target = 0, 0
    for hole in range(hole_at.shape[0]):
        while source < hole_at[hole]:
            filled[target] = known[source]
            source += 1
            target += 1
        miss = hole_miss[hole]
        for number in range(ends[miss - 1] if miss else 0, ends[miss]):
            filled[target] = ids[number]
            target += 1
    while source < known.shape[0]:
        filled[target] = known[source]
        source += 1
        target += 1
