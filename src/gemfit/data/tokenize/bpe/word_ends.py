"""Positions where a text may be split into words without changing a token, compiled.

Nothing here checks a bound: see ``word_cache``.
"""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit_helper
from gemfit.data.tokenize.bpe.char_pairs import char_width, character, may_be_char_pair
from gemfit.data.tokenize.bpe.pretokenize_proof import MARK

SEGMENT = 2048
"""Bytes that are split into words at a time."""
SPARSE = 6
"""Where words have more bytes than this on average, split points by characters are used as well."""
_0, _1, _2, _7, _56 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(7), np.uint64(56)
_TOPS, _ONES = np.uint64(0x8080808080808080), np.uint64(0x0101010101010101)


@njit_helper
def find_word_ends(text, start, stop, end, split_points, word_ends):  # type: ignore[no-untyped-def]
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
def are_wide(windows, start, stop):  # type: ignore[no-untyped-def]
    """Whether one byte in 16 or more begins a character of three bytes, as in scripts without spaces."""
    count, position = _0, start
    while position < stop:
        begin = windows[position] & (windows[position] << _1) & (windows[position] << _2) & _TOPS
        count += (begin >> _7) * _ONES >> _56
        position += 8
    return np.int64(count) * 16 >= stop - start


@njit_helper
def find_word_ends_by_chars(  # type: ignore[no-untyped-def]
    text, windows, start, stop, end, split_points, char_pairs, word_ends
):
    """As ``find_word_ends``, also by characters, which gives more split points; at least one word end."""
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
