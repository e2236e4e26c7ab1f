"""Hash table from a pair of symbols to the rank of its merge, compiled."""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import GOLDEN_RATIO

SYMBOL_BITS, RANK_BITS = 22, 20
"""An entry of the hash table is one integer: two symbols, and the rank of their pair."""
NONE = np.uint32(0xFFFFFFFF)
"""The rank of a pair that is never merged, and the symbol of an ASCII character that has none."""
CHARACTER = np.uint64(2**SYMBOL_BITS - 1)
"""Instead of a left symbol: the right one is the code point of a character."""
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_32 = np.uint64(32)
_1 = np.uint64(1)
_SYMBOL = np.uint64(SYMBOL_BITS)
_RANK = np.uint64(RANK_BITS)
_RANKS = np.uint64(2**RANK_BITS - 1)


@njit
def fill_pairs(lefts, rights, pairs):  # type: ignore[no-untyped-def]
    """Insert pairs into the empty hash table, each with its index as rank; False if a pair occurs twice."""
    last = np.uint64(len(pairs) - 1)
    pairs[:] = _EMPTY
    for rank in range(len(lefts)):
        key = lefts[rank] << _SYMBOL | rights[rank]
        at = _slot(key, last)
        while pairs[at] != _EMPTY:
            if pairs[at] >> _RANK == key:
                return False
            at = (at + _1) & last
        pairs[at] = key << _RANK | np.uint64(rank)
    return True


@njit
def fill_ascii_ranks(pairs, symbols, ranks):  # type: ignore[no-untyped-def]
    """Look up the ranks of all pairs of these symbols. ranks: (symbols, symbols)."""
    for left in range(len(symbols)):
        for right in range(len(symbols)):
            ranks[left, right] = find_rank(pairs, symbols[left], symbols[right])


@njit_helper
def find_rank(pairs, left, right):  # type: ignore[no-untyped-def]
    """The rank of a pair of symbols, or ``NONE``."""
    last = np.uint64(len(pairs) - 1)
    key = np.uint64(left) << _SYMBOL | np.uint64(right)
    at = _slot(key, last)
    while pairs[at] >> _RANK != key:
        if pairs[at] == _EMPTY:
            return NONE
        at = (at + _1) & last
    return np.uint32(pairs[at] & _RANKS)


@njit_helper
def _slot(key, last):  # type: ignore[no-untyped-def]
    mixed = key * GOLDEN_RATIO
    return (mixed ^ (mixed >> _32)) & last
