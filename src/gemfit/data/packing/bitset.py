"""Two-level bitset of small integers, for compiled code.

Adding, removing and finding a neighbour cost a few nanoseconds up to some hundred thousand members;
a set of numbers up to ``n`` takes ``n / 8`` bytes.
"""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit, njit_helper

_DE_BRUIJN = 0x022FDD63CC95386D
"""A number of which the first six bits differ under each of 64 shifts (Leiserson, Prokop, Randall 1998)."""
_INDEX = np.zeros(64, np.int64)
_INDEX[[(_DE_BRUIJN << shift) % 2**64 >> 58 for shift in range(64)]] = np.arange(64)


@njit_helper
def _lowest(word):  # type: ignore[no-untyped-def]
    """Index of the lowest set bit of a word that is not 0."""
    lowest = word & (~word + np.uint64(1))
    return _INDEX[(lowest * np.uint64(_DE_BRUIJN)) >> np.uint64(58)]


@njit_helper
def empty_set(limit):  # type: ignore[no-untyped-def]
    """A set of numbers from 0 to ``limit``: its words, and one bit for each word that is not 0."""
    return np.zeros((limit >> 6) + 1, np.uint64), np.zeros((limit >> 12) + 1, np.uint64)


@njit(inline="always")
def add(words, used, number):  # type: ignore[no-untyped-def]
    words[number >> 6] |= np.uint64(1) << np.uint64(number & 63)
    used[number >> 12] |= np.uint64(1) << np.uint64((number >> 6) & 63)


@njit(inline="always")
def remove(words, used, number):  # type: ignore[no-untyped-def]
    words[number >> 6] &= ~(np.uint64(1) << np.uint64(number & 63))
    if not words[number >> 6]:
        used[number >> 12] &= ~(np.uint64(1) << np.uint64((number >> 6) & 63))


@njit_helper
def at_least(words, used, number):  # type: ignore[no-untyped-def]
    """The smallest member that is not below ``number``, or -1."""
    word = np.int64(number) >> 6
    if word >= len(words):
        return np.int64(-1)
    rest = words[word] >> np.uint64(number & 63)
    if rest:
        return np.int64(number) + np.int64(_lowest(rest))
    word += 1
    group = word >> 6
    if group >= len(used):
        return np.int64(-1)
    rest = used[group] >> np.uint64(word & 63) << np.uint64(word & 63)
    while not rest:
        group += 1
        if group == len(used):
            return np.int64(-1)
        rest = used[group]
    word = (group << 6) + np.int64(_lowest(rest))
    return (word << 6) + np.int64(_lowest(words[word]))
