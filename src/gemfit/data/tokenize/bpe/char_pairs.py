"""Character-pair filter: a Bloom filter of the characters that are adjacent in vocabulary entries.

It has false positives and no false negatives. By bytes alone (``pretokenize_proof``) hardly any sentence of
Chinese or Japanese can be split: whatever byte a character ends with, some entry has it before the byte
that the next one begins with. By characters most positions can be split. Gemma's vocabulary has 33,000
pairs that are not both ASCII; each sets one bit of a million: 128 KiB for any vocabulary. Of all other
pairs 3 % collide with such a bit and are not split, which is always correct.

A character is its UTF-8 bytes as one integer. Nothing here checks a bound: 8 bytes must be readable at each
position.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import GOLDEN_RATIO

BITS = 20
"""The bitmap has 2 to the power of this many bits."""
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ASCII, _BYTE = np.uint64(0x7F), np.uint64(0xFF)
_1 = np.uint64(1)
_6 = np.uint64(6)
_32 = np.uint64(32)
_BIT = np.uint64(63)
_SHIFT = np.uint64(64 - BITS)

CharPairs = NDArray[np.uint64]


def mark_char_pairs(entries: Iterable[str]) -> CharPairs:
    """(2**BITS / 64,): the bits of all adjacent characters in these entries that are not both ASCII."""
    encoded = [entry.encode() for entry in entries]
    data = np.frombuffer(b"".join(encoded) + bytes(8), np.uint8)
    windows = np.ndarray((len(data) - 7,), np.uint64, buffer=data, strides=(1,))
    bits = np.zeros(2**BITS // 64, np.uint64)
    _mark(windows, np.cumsum([len(entry) for entry in encoded], dtype=np.int64), bits)
    return bits


@njit_helper
def char_width(byte):  # type: ignore[no-untyped-def]
    """Bytes of the UTF-8 character that begins with this byte."""
    return 1 + np.int64(byte >= 0xC0) + np.int64(byte >= 0xE0) + np.int64(byte >= 0xF0)


@njit
def character(window, width):  # type: ignore[no-untyped-def]
    """The character of ``width`` bytes at the beginning of a window of 8 bytes."""
    return window & (_ALL >> np.uint64(64 - 8 * width))


@njit_helper
def bit_of(left, right):  # type: ignore[no-untyped-def]
    """Index of the bit of two characters."""
    mixed = (left << _32 | right) * GOLDEN_RATIO
    return ((mixed ^ (mixed >> _32)) * GOLDEN_RATIO) >> _SHIFT


@njit
def may_be_char_pair(bits, left, right):  # type: ignore[no-untyped-def]
    """1 if these characters may be adjacent in an entry, 0 if they certainly are not."""
    bit = bit_of(left, right)
    return np.int64(bits[bit >> _6] >> (bit & _BIT) & _1)


@njit
def _mark(windows, ends, bits):  # type: ignore[no-untyped-def]
    position = 0
    for end in ends:
        start, left = position, np.uint64(0)
        while position < end:
            width = char_width(windows[position] & _BYTE)
            right = character(windows[position], width)
            if position > start and (left | right) > _ASCII:
                bit = bit_of(left, right)
                bits[bit >> _6] |= _1 << (bit & _BIT)
            left = right
            position += width
