"""The hash table of the word cache, compiled: 2 to 4 ns a byte where every word is known.

A row says what is known of a word, up to 8 ids, and the word itself: one cache line for words of up to 24
bytes, two lines in a table of its own for words of up to 88. Open addressing with linear probing; rows are
never removed one by one. Words are compared in full, not by their hash. A word that is not known is merged
and entered at once.

Some words ahead of their use, their rows are touched: many wait for memory at the same time then.

Table and buffers belong to the caller, and nothing here checks a bound: see ``words``. Arrays are passed
one by one, because compiled code counts references to what it takes out of a tuple, for every word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import GOLDEN_RATIO
from gemfit.data.tokenize.bpe.bpe_merge import merge_text
from gemfit.data.tokenize.bpe.char_pairs import are_char_pair, character, width_of
from gemfit.data.tokenize.bpe.pretokenize_proof import MARK

# A row in words of 64 bits: 1 of what is known, 4 of ids, and the word.
ROW = 8
LONG_ROW = 16
WORD_BYTES = 24
LONG_BYTES = 88
WORD_IDS = 8
PADDING = 24
"""Bytes that may be read behind the end of a text."""
SEGMENT = 2048
"""Bytes that are cut into words at a time."""
SPARSE = 6
"""Where words have more bytes than this on average, characters are looked at as well as bytes."""
_IDS = 1
_KEY = 5

# What is known: the number of bytes, and above it the number of ids, or this mark: it has more than fit.
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
    """(WORD_BYTES + 1, 3): what of three times eight bytes belongs to a word, by its number of bytes."""
    inside = np.arange(WORD_BYTES) < np.arange(WORD_BYTES + 1)[:, None]
    return np.where(inside, 255, 0).astype(np.uint8).view(np.dtype("<u8")).astype(np.uint64)


MASKS = _masks()


@njit
def encode_words(  # type: ignore[no-untyped-def]
    text, eights, ends, cuts, together, runs, masks, table, long_from, room, full, edges, words, rows,
    ids, stops, pairs, become, first_ranks, ascii, byte_ids, classes, trie, tokens, items, ranks,
    before, after, heap,
):  # fmt: skip
    """Cut texts into words and write the ids of all; returns how many.

    ``eights[p]`` is the 8 bytes of ``text`` from ``p`` on, little end first; ``text`` has ``PADDING`` bytes
    behind its end. ``table`` is flat; long rows begin at ``long_from``. ``room`` (2,) says how many words may
    be added to the rows and the long rows, and is counted down; where nothing is left before a text, all
    words are forgotten, and ``full`` (2,) is there again. edges, words, rows: (2 * SEGMENT,), to work with.
    ``ids`` has room for one entry a byte and one more; ``stops`` (texts,) gets the number of ids up to the
    end of each text. What follows are the arrays of ``Merges`` and ``MergeBuffers``.
    """
    at, position = 0, 0
    for index in range(ends.shape[0]):
        end = ends[index]
        if not (room[0] and room[1]):
            table[:] = _0
            room[:] = full
        while position < end:
            limit = min(end, position + SEGMENT)
            count = _find_edges(text, position, limit, end, cuts, edges)
            if count * SPARSE < limit - position and (count == 0 or _are_wide(eights, position, limit)):
                count = _find_wide_edges(text, eights, position, limit, end, cuts, together, edges)
            count = _touch_rows(table, long_from, eights, masks, runs, position, edges, count, words, rows)
            for number in range(count):
                start, position = position, words[number]
                row, size = rows[number], position - start
                if row >= 0:
                    row = _row_from(table, long_from, eights, masks, row, start, size)
                elif size <= LONG_BYTES:
                    row = _long_row_of(table, long_from, eights, start, size)
                found = table[row] >> _8 if row >= 0 else _UNCACHED
                if found != _EMPTY and found != _UNCACHED:
                    at += _copy_ids(table, row, np.int64(found), ids, at)
                    continue
                stop = merge_text(
                    text, start, position, ids, at, pairs, become, first_ranks, ascii, byte_ids,
                    classes, trie, tokens, items, ranks, before, after, heap,
                )  # fmt: skip
                if found == _EMPTY:
                    _enter(table, row, eights, start, size, ids, at, stop, room)
                at = stop
        stops[index] = at
    return at


@njit_helper
def _find_edges(text, start, stop, end, cuts, edges):  # type: ignore[no-untyped-def]
    """Ends of the words that end before ``stop``, or there if the text does; how many."""
    count, before = 0, np.int64(text[start])
    marked = np.int64(before == MARK)
    for place in range(start + 1, stop):
        byte = np.int64(text[place])
        # Written whether it is one or not: to ask would be guessed wrongly at every other word.
        edges[count] = place
        count += cuts[marked, before, byte]
        marked = np.int64(byte == MARK) | (marked & ~np.int64(cuts[1, before, byte]))
        before = byte
    if stop == end:
        edges[count] = end
        count += 1
    return count


@njit_helper
def _are_wide(eights, start, stop):  # type: ignore[no-untyped-def]
    """Whether a byte in 16 or more begins a character of three bytes, as in scripts without spaces."""
    count, place = _0, start
    while place < stop:
        begin = eights[place] & (eights[place] << _1) & (eights[place] << _2) & _TOPS
        count += (begin >> _7) * _ONES >> _56
        place += 8
    return np.int64(count) * 16 >= stop - start


@njit_helper
def _find_wide_edges(text, eights, start, stop, end, cuts, together, edges):  # type: ignore[no-untyped-def]
    """The same by characters, of which more may be parted than of bytes; at least one, wherever it is."""
    count, byte = 0, np.int64(text[start])
    marked, width = np.int64(byte == MARK), width_of(byte)
    left = character(eights[start], width)
    place = start + width
    while place < stop or (count == 0 and place < end):
        before, byte = np.int64(text[place - 1]), np.int64(text[place])
        edges[count] = place
        apart = np.int64(cuts[1, before, byte])
        width, right = 1, np.uint64(byte)
        if before | byte >= 0x80:
            width = width_of(byte)
            right = character(eights[place], width)
            apart |= 1 - are_char_pair(together, left, right)
        count += cuts[marked, before, byte] | apart
        marked = np.int64(byte == MARK) | (marked & ~apart)
        left = right
        place += width
    if place >= end:
        edges[count] = end
        count += 1
    return count


@njit_helper
def _touch_rows(table, long_from, eights, masks, runs, start, edges, count, words, rows):  # type: ignore[no-untyped-def]
    """Where to look for each word that is not long, and a first look, so that it is near when it is used.

    A run of spaces becomes a word of its own where it may. ``words`` gets the ends; returns how many.
    """
    last = np.uint64(long_from // ROW - 1)
    seen, made, number = _0, 0, 0
    while number < count:
        end = edges[number]
        if eights[start] & _TWO == _SPACES and end - start > 2:
            length = 2
            while start + length < end and eights[start + length] & _LOW == _SPACE:
                length += 1
            behind = eights[start + length] & _LOW
            if start + length < end and length < len(runs) and runs[length] and behind < _ASCII:
                end = start + length
        size = end - start
        rows[made] = -1
        if size <= WORD_BYTES:
            mixed = (eights[start] & masks[size, 0]) * GOLDEN_RATIO
            if size > 8:  # else both are nothing
                mixed ^= (eights[start + 8] & masks[size, 1]) * _MIX1
                mixed ^= (eights[start + 16] & masks[size, 2]) * _MIX2
            mixed = (mixed ^ (mixed >> _32)) * _MIX3
            row = np.int64((mixed ^ (mixed >> _32)) & last) * ROW
            seen ^= table[row]
            rows[made] = row
        words[made] = end
        made += 1
        number += end == edges[number]
        start = end
    rows[made] = np.int64(seen >> _1)  # used, or the look would be left out by the compiler
    return made


@njit_helper
def _row_from(table, long_from, eights, masks, row, start, size):  # type: ignore[no-untyped-def]
    """The row of this word, or the empty one where it would be entered; there always is an empty one."""
    key = eights[start] & masks[size, 0]
    while True:
        known = table[row]
        if known == _EMPTY or (
            known & _LOW == np.uint64(size)
            and table[row + _KEY] == key
            and (
                size <= 8
                or (
                    table[row + _KEY + 1] == eights[start + 8] & masks[size, 1]
                    and table[row + _KEY + 2] == eights[start + 16] & masks[size, 2]
                )
            )
        ):
            return row
        row += ROW
        if row == long_from:
            row = 0


@njit_helper
def _long_row_of(table, long_from, eights, start, size):  # type: ignore[no-untyped-def]
    mixed = _0
    for offset in range(0, size, 8):
        mixed = (mixed ^ _eight(eights, start, size, offset)) * GOLDEN_RATIO
        mixed ^= mixed >> _32
    last = np.uint64((table.shape[0] - long_from) // LONG_ROW - 1)
    number = mixed & last
    while True:
        row = long_from + np.int64(number) * LONG_ROW
        known = table[row]
        if known == _EMPTY or (
            known & _LOW == np.uint64(size) and _is_word(table, row + _KEY, eights, start, size)
        ):
            return row
        number = (number + _1) & last


@njit_helper
def _eight(eights, start, size, offset):  # type: ignore[no-untyped-def]
    """Eight bytes of a word, filled up with zeros behind its end."""
    rest = min(8, size - offset)
    return eights[start + offset] & (_ALL >> np.uint64(64 - 8 * rest))


@njit_helper
def _is_word(table, at, eights, start, size):  # type: ignore[no-untyped-def]
    for offset in range(0, size, 8):  # noqa: SIM110 - compiled code has no generators
        if table[at + offset // 8] != _eight(eights, start, size, offset):
            return False
    return True


@njit_helper
def _enter(table, row, eights, start, size, ids, at, stop, room):  # type: ignore[no-untyped-def]
    """Put a word and its ids into its row, while there is room."""
    kind = 1 if size > WORD_BYTES else 0
    if room[kind] <= 0:
        return
    room[kind] -= 1
    count = stop - at
    for number in range(0, min(count, WORD_IDS), 2):
        # Behind the last id is what is written over next; it does no harm, see _copy_ids.
        table[row + _IDS + (number >> 1)] = np.uint64(ids[at + number + 1]) << _32 | np.uint64(
            ids[at + number]
        )
    known = np.uint64(count) if count <= WORD_IDS else _UNCACHED
    table[row] = np.uint64(size) | known << _8
    for offset in range(0, size, 8):
        table[row + _KEY + offset // 8] = _eight(eights, start, size, offset)


@njit_helper
def _copy_ids(table, row, count, ids, at):  # type: ignore[no-untyped-def]
    # Most words are one token or two: both are written without asking which, and what is too much is
    # written over. A loop over one or two would be guessed wrongly by the processor, again and again.
    ids[at] = np.uint32(table[row + _IDS] & _HALF)
    ids[at + 1] = np.uint32(table[row + _IDS] >> _32)
    for number in range(2, count):
        pair = table[row + _IDS + (number >> 1)]
        ids[at + number] = np.uint32((pair >> _32) if number & 1 else (pair & _HALF))
    return count
