"""BPE merge loop, compiled: 100 ns per byte, for words that are not in the word cache.

As in ``tokenizers``: added tokens are matched first, leftmost and longest; between them every character
becomes a symbol, or its bytes do; then the adjacent pair of the lowest rank is merged, of equal pairs the
leftmost, until no pair has a rank. Short words scan for that pair, long ones use a heap: O(n log n).

The caller allocates all arrays, and nothing here checks a bound: see ``bpe_tables``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import GOLDEN_RATIO

SYMBOL_BITS, RANK_BITS = 22, 20
"""An entry of the hash table is one integer: two symbols, and the rank of their pair."""
MAX_SCANNED = 64
"""Words of up to this many symbols are scanned for the lowest rank; longer ones use a heap."""
NONE = np.uint32(0xFFFFFFFF)
"""The rank of a pair that is never merged, and the symbol of an ASCII character that has none."""
CHARACTER = np.uint64(2**SYMBOL_BITS - 1)
"""Instead of a left symbol: the right one is the code point of a character."""
SPECIAL, NO_TOKEN = -1, -2
"""Marks in ``MergeTables.added_ids``: a special token, which counts as text; no added token ends here."""
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_1 = np.uint64(1)
_SYMBOL = np.uint64(SYMBOL_BITS)
_RANK = np.uint64(RANK_BITS)
_RANKS = np.uint64(2**RANK_BITS - 1)


class MergeTables(NamedTuple):
    """A BPE model as arrays. Shapes in brackets."""

    pairs: NDArray[np.uint64]
    """(capacity,): hash table of (left symbol << 22 | right symbol) << 20 | rank."""
    merged: NDArray[np.uint32]
    """(ranks,): the symbol that a pair is merged to; following the merges, the symbol of each character."""
    ascii_ranks: NDArray[np.uint32]
    """(128, 128): ranks of pairs of ASCII characters."""
    ascii: NDArray[np.uint32]
    """(128,): symbols of ASCII characters."""
    byte_ids: NDArray[np.uint32]
    """(256,): the symbol of each byte (byte fallback), for characters that are not in the vocabulary."""
    byte_classes: NDArray[np.uint8]
    """(256,): column of ``trie`` of each byte that occurs in added tokens; 0 for others."""
    trie: NDArray[np.int32]
    """(nodes, columns): trie of the added tokens: the next node, or 0. Node 0 is the root."""
    added_ids: NDArray[np.int64]
    """(nodes,): the id of the added token that ends here, or a mark."""


class MergeBuffers(NamedTuple):
    """Working memory of one merge: (bytes of the longest text,), and three times that for the heap."""

    symbols: NDArray[np.uint32]
    ranks: NDArray[np.uint32]
    """Of each symbol and its right neighbour; ``NONE`` also where the symbol was merged into another."""
    previous: NDArray[np.int64]
    following: NDArray[np.int64]
    """With ``previous``: the linked list of the symbols that are left."""
    heap: NDArray[np.uint64]
    """Keys: rank << 32 | position."""


def make_merge_buffers(size: int) -> MergeBuffers:
    """Buffers for texts of up to ``size`` bytes; pages are allocated as they are touched."""
    symbols, links = np.empty((2, size + 1), np.uint32), np.empty((2, size + 1), np.int64)
    return MergeBuffers(symbols[0], symbols[1], links[0], links[1], np.empty(3 * size + 1, np.uint64))


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


@njit_helper
def merge_text(  # type: ignore[no-untyped-def]
    text, start, stop, ids, out,
    pairs, merged, ascii_ranks, ascii, byte_ids, byte_classes, trie, added_ids, symbols, ranks,
    previous, following, heap,
):  # fmt: skip
    """Write the ids of ``text[start:stop]`` from ``ids[out]`` on, at most one per byte; where they end."""
    pending = position = start
    while position <= stop:
        token, end = NO_TOKEN, position
        if position < stop and byte_classes[text[position]] and trie[0, byte_classes[text[position]]]:
            token, end = _match_added_token(text, position, stop, byte_classes, trie, added_ids)
        if pending < position and (token >= 0 or position == stop):
            count = _initial_symbols(
                text, pending, position, pairs, merged, ascii_ranks, ascii, byte_ids, symbols, ranks
            )
            if count <= MAX_SCANNED:
                out = _merge_by_scan(count, pairs, merged, symbols, ranks, ids, out)
            else:
                out = _merge_by_heap(
                    count, pairs, merged, symbols, ranks, previous, following, heap, ids, out
                )
        if token >= 0:
            ids[out] = token
            out += 1
            pending = end
        position = max(end, position + 1)
    return out


@njit_helper
def _match_added_token(text, start, stop, byte_classes, trie, added_ids):  # type: ignore[no-untyped-def]
    """The longest added token that begins at ``start``, and its end: a walk down the trie."""
    found, end = NO_TOKEN, start
    node, position = 0, start
    while position < stop:
        node = trie[node, byte_classes[text[position]]]
        if not node:
            break
        position += 1
        if added_ids[node] != NO_TOKEN:
            found, end = added_ids[node], position
    return found, end


@njit_helper
def _merge_by_scan(count, pairs, merged, symbols, ranks, ids, out):  # type: ignore[no-untyped-def]
    """Merge the pair of the lowest rank until there is none, found by a scan; write the symbols left."""
    while True:
        lowest, position = NONE, np.int64(-1)
        for number in range(count - 1):
            if ranks[number] < lowest:
                lowest, position = ranks[number], np.int64(number)
        if position < 0:
            break
        symbols[position] = merged[lowest]
        count -= 1
        for number in range(position + 1, count):
            symbols[number], ranks[number] = symbols[number + 1], ranks[number + 1]
        if position + 1 < count:
            ranks[position] = find_rank(pairs, symbols[position], symbols[position + 1])
        if position:
            ranks[position - 1] = find_rank(pairs, symbols[position - 1], symbols[position])
    for number in range(count):
        ids[out + number] = symbols[number]
    return out + count


@njit
def _merge_by_heap(  # type: ignore[no-untyped-def]
    count, pairs, merged, symbols, ranks, previous, following, heap, ids, out
):
    """As ``_merge_by_scan``, with a heap: slower for a word and much faster for a page."""
    size = 0
    for position in range(count):
        previous[position], following[position] = position - 1, position + 1
        if ranks[position] != NONE:
            size = _push(heap, size, np.uint64(ranks[position]) << _32 | np.uint64(position))
    while size:
        first, size = _pop(heap, size)
        position = first & _LOW
        if ranks[position] != first >> _32:
            continue  # stale: one of the two has been merged since
        absorbed, left = following[position], previous[position]
        right = following[absorbed]
        symbols[position] = merged[ranks[position]]
        ranks[position] = ranks[absorbed] = NONE
        following[position] = right
        if right < count:
            previous[right] = position
            ranks[position] = find_rank(pairs, symbols[position], symbols[right])
            if ranks[position] != NONE:
                size = _push(heap, size, np.uint64(ranks[position]) << _32 | np.uint64(position))
        if left >= 0:
            ranks[left] = find_rank(pairs, symbols[left], symbols[position])
            if ranks[left] != NONE:
                size = _push(heap, size, np.uint64(ranks[left]) << _32 | np.uint64(left))
    position = 0
    while position < count:
        ids[out] = symbols[position]
        out += 1
        position = following[position]
    return out


@njit
def _initial_symbols(  # type: ignore[no-untyped-def]
    text, start, stop, pairs, merged, ascii_ranks, ascii, byte_ids, symbols, ranks
):
    """Symbols before any merge, one per character or per byte of it, and the ranks of pairs; how many."""
    count, position, after_ascii = 0, start, False
    while position < stop:
        first = np.int64(text[position])
        if first < 128 and ascii[first] != NONE:
            symbols[count] = ascii[first]
            if count:
                ranks[count - 1] = (
                    ascii_ranks[text[position - 1], first]
                    if after_ascii
                    else find_rank(pairs, symbols[count - 1], symbols[count])
                )
            after_ascii = True
            count += 1
            position += 1
            continue
        after_ascii = False
        width = _width(first, stop - position)
        begin = count
        rank = find_rank(pairs, CHARACTER, _code_point(text, position, width))
        if rank != NONE:
            symbols[count] = merged[rank]
            count += 1
        else:
            for byte in text[position : position + width]:
                symbols[count] = byte_ids[byte]
                count += 1
        for number in range(max(begin, 1), count):
            ranks[number - 1] = find_rank(pairs, symbols[number - 1], symbols[number])
        position += width
    ranks[count - 1] = NONE
    return count


@njit_helper
def _width(first, most):  # type: ignore[no-untyped-def]
    """Bytes of the UTF-8 character that begins with this byte, at most ``most``."""
    return min(most, 1 if first < 0xC0 else (2 if first < 0xE0 else (3 if first < 0xF0 else 4)))


@njit_helper
def _code_point(text, position, width):  # type: ignore[no-untyped-def]
    """The code point of the UTF-8 character at ``position``."""
    code = np.int64(text[position])
    if width > 1:
        code &= 0xFF >> (width + 1)
    for byte in text[position + 1 : position + width]:
        code = code << 6 | np.int64(byte) & 0x3F
    return code


@njit
def _push(heap, size, key):  # type: ignore[no-untyped-def]
    """Insert a key; the new size."""
    at = size
    while at and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key
    return size + 1


@njit_helper
def _pop(heap, size):  # type: ignore[no-untyped-def]
    """Remove the least key; it and the new size."""
    least, size = heap[0], size - 1
    key, at = heap[size], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key
    return least, size
