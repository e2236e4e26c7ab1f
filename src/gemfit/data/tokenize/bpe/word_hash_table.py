"""Hash table of the word cache, compiled: 2 to 4 ns per byte where every word is cached.

A row is a header, up to 8 ids, and the word: one cache line for words of up to 24 bytes, two lines in a
second table for words of up to 88. Open addressing with linear probing; rows are never removed one by one.
Words are compared in capacities, not by their hash. A word that is not cached is merged and inserted at once.

Rows are prefetched: they are read once for all words of a segment previous they are used, so that many cache
misses overlap.

The caller allocates table and buffers, and nothing here checks a bound: see ``word_cache``. Arrays are passed
one by one, because compiled code counts references to what it takes out of a tuple, for every word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import GOLDEN_RATIO
from gemfit.data.tokenize.bpe.bpe_merge import merge_text
from gemfit.data.tokenize.bpe.char_pairs import char_width, character, may_be_char_pair
from gemfit.data.tokenize.bpe.pretokenize_proof import MARK

# A row in units of 64 bits: 1 for the header, 4 for ids, and the word.
ROW = 8
LONG_ROW = 16
WORD_BYTES = 24
LONG_BYTES = 88
WORD_IDS = 8
PADDING = 24
"""Bytes that may be read following the end of a text."""
SEGMENT = 2048
"""Bytes that are split into words at a time."""
SPARSE = 6
"""Where words have more bytes than this on average, split points by characters are used as well."""
_IDS = 1
_KEY = 5

# Header: the number of bytes, and above it the number of ids, or this mark: more ids than fit.
_EMPTY = np.uint64(0)
_UNCACHED = np.uint64(255)

_LOW = np.uint64(0xFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_HALF = np.uint64(0xFFFFFFFF)
_0 = np.uint64(0)
_1 = np.uint64(1)
_2, _7, _8, _56 = np.uint64(2), np.uint64(7), np.uint64(8), np.uint64(56)
_32 = np.uint64(32)
_SPACE, _SPACES, _TWO, _ASCII = np.uint64(0x20), np.uint64(0x2020), np.uint64(0xFFFF), np.uint64(128)
_TOPS, _ONES = np.uint64(0x8080808080808080), np.uint64(0x0101010101010101)
# Odd numbers with well-mixed bits, used with the golden ratio.
_MIX1 = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX2 = np.uint64(0x165667B19E3779F9)
_MIX3 = np.uint64(0xD6E8FEB86659FD93)


def _masks() -> NDArray[np.uint64]:
    """(WORD_BYTES + 1, 3): masks of the bytes of three windows that belong to a word, by its length."""
    inside = np.arange(WORD_BYTES) < np.arange(WORD_BYTES + 1)[:, None]
    return np.where(inside, 255, 0).astype(np.uint8).view(np.dtype("<u8")).astype(np.uint64)


MASKS = _masks()


@njit
def encode_words(  # type: ignore[no-untyped-def]
    text, windows, ends, split_points, char_pairs, splittable_runs, masks, table, long_start, free_rows,
    capacities, word_ends, split_ends, rows, ids, stops,
    pairs, merged, ascii_ranks, ascii, byte_ids, byte_classes, trie, added_ids,
    symbols, ranks, previous, following, heap,
):  # fmt: skip
    """Split texts into words and write the ids of all; returns how many.

    ``windows[p]`` is the 8 bytes of ``text`` from ``p`` on, little-endian; ``text`` has ``PADDING`` bytes
    after its end. ``table`` is flat; long rows begin at ``long_start``. ``free_rows`` (2,) is the number of
    words that may be added to the rows and the long rows, and is counted down; where none is left before a
    text, the table is cleared and ``free_rows`` reset to ``capacities`` (2,). word_ends, split_ends, rows:
    (2 * SEGMENT,), buffers. ``ids`` has one element per byte and one more; ``stops`` (texts,) gets the number
    of ids up to the end of each text. Then follow the arrays of ``MergeTables`` and ``MergeBuffers``.
    """
    out, position = 0, 0
    for index in range(ends.shape[0]):
        end = ends[index]
        if not (free_rows[0] and free_rows[1]):
            table[:] = _0
            free_rows[:] = capacities
        while position < end:
            limit = min(end, position + SEGMENT)
            count = _find_word_ends(text, position, limit, end, split_points, word_ends)
            if count * SPARSE < limit - position and (count == 0 or _are_wide(windows, position, limit)):
                count = _find_word_ends_by_chars(
                    text, windows, position, limit, end, split_points, char_pairs, word_ends
                )
            count = _prefetch_rows(
                table, long_start, windows, masks, splittable_runs, position, word_ends, count, split_ends,
                rows,
            )  # fmt: skip
            for number in range(count):
                start, position = position, split_ends[number]
                row, size = rows[number], position - start
                if row >= 0:
                    row = _row_from(table, long_start, windows, masks, row, start, size)
                elif size <= LONG_BYTES:
                    row = _long_row_of(table, long_start, windows, start, size)
                found = table[row] >> _8 if row >= 0 else _UNCACHED
                if found != _EMPTY and found != _UNCACHED:
                    out += _copy_ids(table, row, np.int64(found), ids, out)
                    continue
                stop = merge_text(
                    text, start, position, ids, out, pairs, merged, ascii_ranks, ascii, byte_ids,
                    byte_classes, trie, added_ids, symbols, ranks, previous, following, heap,
                )  # fmt: skip
                if found == _EMPTY:
                    _insert(table, row, windows, start, size, ids, out, stop, free_rows)
                out = stop
        stops[index] = out
    return out


@njit_helper
def _find_word_ends(text, start, stop, end, split_points, word_ends):  # type: ignore[no-untyped-def]
    """Find the ends of words before ``stop``, or there if the text ends there; how many."""
    count, previous = 0, np.int64(text[start])
    marked = np.int64(previous == MARK)
    for position in range(start + 1, stop):
        byte = np.int64(text[position])
        # Written whether it is one or not: a branch would be mispredicted at every other word.
        word_ends[count] = position
        count += split_points[marked, previous, byte]
        marked = np.int64(byte == MARK) | (marked & ~np.int64(split_points[1, previous, byte]))
        previous = byte
    if stop == end:
        word_ends[count] = end
        count += 1
    return count


@njit_helper
def _are_wide(windows, start, stop):  # type: ignore[no-untyped-def]
    """Whether one byte in 16 or more begins a character of three bytes, as in scripts without spaces."""
    count, position = _0, start
    while position < stop:
        begin = windows[position] & (windows[position] << _1) & (windows[position] << _2) & _TOPS
        count += (begin >> _7) * _ONES >> _56
        position += 8
    return np.int64(count) * 16 >= stop - start


@njit_helper
def _find_word_ends_by_chars(  # type: ignore[no-untyped-def]
    text, windows, start, stop, end, split_points, char_pairs, word_ends
):
    """As ``_find_word_ends``, also by characters, which gives more split points; at least one word end."""
    count, byte = 0, np.int64(text[start])
    marked, width = np.int64(byte == MARK), char_width(byte)
    left = character(windows[start], width)
    position = start + width
    while position < stop or (count == 0 and position < end):
        previous, byte = np.int64(text[position - 1]), np.int64(text[position])
        word_ends[count] = position
        splits = np.int64(split_points[1, previous, byte])
        width, right = 1, np.uint64(byte)
        if previous | byte >= 0x80:
            width = char_width(byte)
            right = character(windows[position], width)
            splits |= 1 - may_be_char_pair(char_pairs, left, right)
        count += split_points[marked, previous, byte] | splits
        marked = np.int64(byte == MARK) | (marked & ~splits)
        left = right
        position += width
    if position >= end:
        word_ends[count] = end
        count += 1
    return count


@njit_helper
def _prefetch_rows(  # type: ignore[no-untyped-def]
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
def _row_from(table, long_start, windows, masks, row, start, size):  # type: ignore[no-untyped-def]
    """The row of this word, or the empty row where it would be inserted; there always is an empty one."""
    key = windows[start] & masks[size, 0]
    while True:
        header = table[row]
        if header == _EMPTY or (
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
def _long_row_of(table, long_start, windows, start, size):  # type: ignore[no-untyped-def]
    """As ``_row_from``, for a long word."""
    mixed = _0
    for offset in range(0, size, 8):
        mixed = (mixed ^ _window(windows, start, size, offset)) * GOLDEN_RATIO
        mixed ^= mixed >> _32
    last = np.uint64((table.shape[0] - long_start) // LONG_ROW - 1)
    number = mixed & last
    while True:
        row = long_start + np.int64(number) * LONG_ROW
        header = table[row]
        if header == _EMPTY or (
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
def _insert(table, row, windows, start, size, ids, out, stop, free_rows):  # type: ignore[no-untyped-def]
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
    num_ids = np.uint64(count) if count <= WORD_IDS else _UNCACHED
    table[row] = np.uint64(size) | num_ids << _8
    for offset in range(0, size, 8):
        table[row + _KEY + offset // 8] = _window(windows, start, size, offset)


@njit_helper
def _copy_ids(table, row, count, ids, out):  # type: ignore[no-untyped-def]
    """Copy the ids of a cached word; how many."""
    # Most words are one token or two: two are always written, and what is too much is overwritten. A loop
    # over one or two would be mispredicted again and again.
    ids[out] = np.uint32(table[row + _IDS] & _HALF)
    ids[out + 1] = np.uint32(table[row + _IDS] >> _32)
    for number in range(2, count):
        pair = table[row + _IDS + (number >> 1)]
        ids[out + number] = np.uint32((pair >> _32) if number & 1 else (pair & _HALF))
    return count
