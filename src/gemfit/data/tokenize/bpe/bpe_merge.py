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
from gemfit.data.tokenize.bpe.initial_symbols import initial_symbols
from gemfit.data.tokenize.bpe.pair_table import NONE, find_rank

MAX_SCANNED = 64
"""Words of up to this many symbols are scanned for the lowest rank; longer ones use a heap."""
SPECIAL, NO_TOKEN = -1, -2
"""Marks in ``MergeTables.added_ids``: a special token, which counts as text; no added token ends here."""
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class MergeTables(NamedTuple):
    """A BPE model as arrays. Shapes in brackets."""

    pairs: NDArray[np.uint64]
    """(capacity,): hash table of (left symbol << 22 | right symbol) << 20 | rank."""
    merged: NDArray[np.uint32]
    """(ranks,): the symbol that a pair is merged to; after the merges, the symbol of each character."""
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
            count = initial_symbols(
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
