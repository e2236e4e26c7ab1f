"""Which characters stand together in items: a bitmap that may say yes wrongly, and never no.

By bytes alone (``cuts``) hardly a sentence of Chinese or Japanese is cut: whatever byte a character ends in,
some item has it before the byte that the next begins with. By characters it is cut at most places. Gemma's
items have 33,000 pairs that are not both ASCII; each sets one bit of a million: 128 KiB for any vocabulary.
Of all other pairs 3 % fall on such a bit, and are not cut, which is always right.

A character is its UTF-8, as one number. Nothing here checks a bound: 8 bytes can be read at each place.
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


def mark_char_pairs(items: Iterable[str]) -> CharPairs:
    """(2**BITS / 64,): the bits of all pairs of neighbours in these items that are not both ASCII."""
    encoded = [item.encode() for item in items]
    data = np.frombuffer(b"".join(encoded) + bytes(8), np.uint8)
    eights = np.ndarray((len(data) - 7,), np.uint64, buffer=data, strides=(1,))
    bits = np.zeros(2**BITS // 64, np.uint64)
    _mark(eights, np.cumsum([len(item) for item in encoded], dtype=np.int64), bits)
    return bits


@njit_helper
def width_of(byte):  # type: ignore[no-untyped-def]
    """Bytes of the character that begins with this one."""
    return 1 + np.int64(byte >= 0xC0) + np.int64(byte >= 0xE0) + np.int64(byte >= 0xF0)


@njit
def character(eight, width):  # type: ignore[no-untyped-def]
    """The first of these 8 bytes, which has so many."""
    return eight & (_ALL >> np.uint64(64 - 8 * width))


@njit_helper
def bit_of(left, right):  # type: ignore[no-untyped-def]
    """Where the bit of two characters is."""
    mixed = (left << _32 | right) * GOLDEN_RATIO
    return ((mixed ^ (mixed >> _32)) * GOLDEN_RATIO) >> _SHIFT


@njit
def are_char_pair(bits, left, right):  # type: ignore[no-untyped-def]
    """1 where an item may have these neighbours, 0 where none has."""
    bit = bit_of(left, right)
    return np.int64(bits[bit >> _6] >> (bit & _BIT) & _1)


@njit
def _mark(eights, ends, bits):  # type: ignore[no-untyped-def]
    place = 0
    for end in ends:
        start, left = place, np.uint64(0)
        while place < end:
            width = width_of(eights[place] & _BYTE)
            right = character(eights[place], width)
            if place > start and (left | right) > _ASCII:
                bit = bit_of(left, right)
                bits[bit >> _6] |= _1 << (bit & _BIT)
            left = right
            place += width
