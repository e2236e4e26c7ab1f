"""The hash table of the word cache, compiled: about 6 ns a byte where every word is known.

A row says what is known of a word, up to 8 ids, and the word itself: one cache line for words of up to 24
bytes, two lines in a table of its own for words of up to 88. Open addressing with linear probing; rows are
never removed one by one. Words are compared in full, not by their hash.

Table and buffers belong to the caller, and nothing here checks a bound: see ``words``.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Index = NDArray[np.int64]

# A row in words of 64 bits: 1 of what is known, 4 of ids, and the word.
ROW = 8
LONG_ROW = 16
WORD_BYTES = 24
LONG_BYTES = 88
WORD_IDS = 8
_IDS = 1
_KEY = 5

# What is known: the number of bytes, and above it the number of ids or one of these marks.
_EMPTY = np.uint64(0)
_PENDING = np.uint64(254)  # Missed in this call; the first of the ids is the number of the miss.
_UNCACHED = np.uint64(255)  # It has more ids than fit.

_LOW = np.uint64(0xFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_HALF = np.uint64(0xFFFFFFFF)
_0 = np.uint64(0)
_1 = np.uint64(1)
_8 = np.uint64(8)
_32 = np.uint64(32)
# Odd numbers with well-mixed bits, the first from the golden ratio.
_MIX0 = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX2 = np.uint64(0x165667B19E3779F9)
_MIX3 = np.uint64(0xD6E8FEB86659FD93)


@njit(cache=True)
def find_words(
    text: Bytes,
    eights: Words,
    ends: Index,
    cuts: NDArray[np.bool_],
    table: Words,
    long_from: int,
    room: Index,
    ids: NDArray[np.uint32],
    stops: Index,
    stop_holes: Index,
    hole_at: Index,
    hole_miss: Index,
    miss_ends: Index,
    miss_rows: Index,
    missed: Bytes,
) -> tuple[int, int, int]:
    """Cut texts into words and copy the ids of known ones; a miss leaves a hole.

    ``eights[p]`` is the 8 bytes of ``text`` from ``p`` on, little end first; ``text`` has 8 bytes of
    padding. What is named after holes and misses has room for one entry a byte, ``ids`` for one more.
    ``table`` is flat; long rows begin at ``long_from``. ``room`` (2,) says how many words may be added to
    the rows and the long rows, and is counted down. ``stops`` and ``stop_holes`` (texts,) get the number
    of ids and of holes up to the end of each text. Returns the numbers of ids, holes and misses.
    """
    num_ids, num_holes, num_misses, missed_bytes, position = 0, 0, 0, 0, 0
    for index in range(ends.shape[0]):
        while position < ends[index]:
            start = position
            position = _word_end(text, start, ends[index], cuts)
            size = position - start
            row, found = -1, _EMPTY
            if size <= LONG_BYTES:
                row = _row_of(table, long_from, eights, start, size)
                found = table[row] >> _8
                if found == _EMPTY:
                    row = _enter(table, row, eights, start, size, num_misses, room)
                elif found == _UNCACHED:
                    row = -1
                elif found < _PENDING:
                    num_ids += _copy_ids(table, row, np.int64(found), ids, num_ids)
                    continue
            hole_at[num_holes] = num_ids
            if found == _PENDING:
                hole_miss[num_holes] = np.int64(table[row + _IDS])
            else:
                hole_miss[num_holes] = num_misses
                missed_bytes = _gather(text, start, size, missed, missed_bytes)
                miss_ends[num_misses], miss_rows[num_misses] = missed_bytes, row
                num_misses += 1
            num_holes += 1
        stops[index], stop_holes[index] = num_ids, num_holes
    return num_ids, num_holes, num_misses


@njit(cache=True)
def _word_end(text: Bytes, start: int, end: int, cuts: NDArray[np.bool_]) -> int:
    before, position = text[start], start + 1
    while position < end and not cuts[before, text[position]]:
        before = text[position]
        position += 1
    return position


@njit(cache=True)
def _row_of(table: Words, long_from: int, eights: Words, start: int, size: int) -> int:
    """The row of this word, or the empty one where it would be entered; there always is an empty one."""
    if size > WORD_BYTES:
        return _long_row_of(table, long_from, eights, start, size)
    key0, key1, key2 = _key(eights, start, size)
    mixed = (key0 * _MIX0) ^ (key1 * _MIX1) ^ (key2 * _MIX2)
    mixed = (mixed ^ (mixed >> _32)) * _MIX3
    last = np.uint64(long_from // ROW - 1)
    number = (mixed ^ (mixed >> _32)) & last
    while True:
        row = np.int64(number) * ROW
        known = table[row]
        if known == _EMPTY or (
            known & _LOW == np.uint64(size)
            and table[row + _KEY] == key0
            and table[row + _KEY + 1] == key1
            and table[row + _KEY + 2] == key2
        ):
            return row  # type: ignore[return-value]
        number = (number + _1) & last


@njit(cache=True)
def _long_row_of(table: Words, long_from: int, eights: Words, start: int, size: int) -> int:
    mixed = _0
    for offset in range(0, size, 8):
        mixed = (mixed ^ _eight(eights, start, size, offset)) * _MIX0
        mixed ^= mixed >> _32
    last = np.uint64((table.shape[0] - long_from) // LONG_ROW - 1)
    number = mixed & last
    while True:
        row = long_from + np.int64(number) * LONG_ROW
        known = table[row]
        if known == _EMPTY or (
            known & _LOW == np.uint64(size) and _is_word(table, row + _KEY, eights, start, size)
        ):
            return row  # type: ignore[return-value]
        number = (number + _1) & last


@njit(cache=True)
def _key(eights: Words, start: int, size: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """A short word, filled up with zeros."""
    if size <= 8:
        return eights[start] & (_ALL >> np.uint64(64 - 8 * size)), _0, _0
    if size <= 16:
        return eights[start], eights[start + 8] & (_ALL >> np.uint64(128 - 8 * size)), _0
    return eights[start], eights[start + 8], eights[start + 16] & (_ALL >> np.uint64(192 - 8 * size))


@njit(cache=True)
def _eight(eights: Words, start: int, size: int, offset: int) -> np.uint64:
    """Eight bytes of a word, filled up with zeros behind its end."""
    rest = min(8, size - offset)
    return eights[start + offset] & (_ALL >> np.uint64(64 - 8 * rest))


@njit(cache=True)
def _is_word(table: Words, at: int, eights: Words, start: int, size: int) -> bool:
    for offset in range(0, size, 8):  # noqa: SIM110 - compiled code has no generators
        if table[at + offset // 8] != _eight(eights, start, size, offset):
            return False
    return True


@njit(cache=True)
def _enter(table: Words, row: int, eights: Words, start: int, size: int, miss: int, room: Index) -> int:
    """Put a word that is missed into its row, while there is room; -1 where there is none."""
    kind = 1 if size > WORD_BYTES else 0
    if room[kind] <= 0:
        return -1
    room[kind] -= 1
    table[row] = np.uint64(size) | (_PENDING << _8)
    table[row + _IDS] = np.uint64(miss)
    for offset in range(0, size, 8):
        table[row + _KEY + offset // 8] = _eight(eights, start, size, offset)
    return row


@njit(cache=True)
def _copy_ids(table: Words, row: int, count: int, ids: NDArray[np.uint32], at: int) -> int:
    # Most words are one token or two: both are written without asking which, and what is too much is
    # written over. A loop over one or two would be guessed wrongly by the processor, again and again.
    ids[at] = np.uint32(table[row + _IDS] & _HALF)
    ids[at + 1] = np.uint32(table[row + _IDS] >> _32)
    for number in range(2, count):
        pair = table[row + _IDS + (number >> 1)]
        ids[at + number] = np.uint32((pair >> _32) if number & 1 else (pair & _HALF))
    return count


@njit(cache=True)
def _gather(text: Bytes, start: int, size: int, missed: Bytes, at: int) -> int:
    for offset in range(size):
        missed[at + offset] = text[start + offset]
    return at + size


@njit(cache=True)
def learn_words(table: Words, miss_rows: Index, ids: NDArray[np.uint32], ends: Index) -> None:
    """Enter the ids of the misses; ``ends`` (misses,) says where those of each end."""
    start = 0
    for miss in range(miss_rows.shape[0]):
        count = ends[miss] - start
        row = miss_rows[miss]
        if row >= 0:
            size = table[row] & _LOW
            # An id for each byte at most: find_words relies on it.
            if 0 < count <= min(WORD_IDS, np.int64(size)):
                table[row + _IDS : row + _KEY] = _0
                for number in range(count):
                    half = np.uint64(ids[start + number])
                    table[row + _IDS + (number >> 1)] |= (half << _32) if number & 1 else half
                table[row] = size | (np.uint64(count) << _8)
            else:
                table[row] = size | (_UNCACHED << _8)
        start = ends[miss]


@njit(cache=True)
def count_ids(num_ids: int, stops: Index, stop_holes: Index, hole_miss: Index, ends: Index) -> int:
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
    hole_at: Index,
    hole_miss: Index,
    ids: NDArray[np.uint32],
    ends: Index,
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
