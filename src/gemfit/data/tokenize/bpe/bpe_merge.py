"""Byte pair merging, compiled: some 100 ns a byte, for words that the cache does not know.

The same as the reference does: added tokens are looked for first, the leftmost and of these the longest;
between them every character is an item or becomes its bytes; then, again and again, the pair of the
lowest rank is joined, of equal pairs the leftmost. In a text of one endless word a heap finds it, so that
this takes n log n.

Arrays belong to the caller, and nothing here checks a bound: see ``merges``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import GOLDEN_RATIO

ITEM_BITS, RANK_BITS = 22, 20
"""An entry of the hash table is one number: two items, and the rank of their pair."""
SCANNED = 64
"""Up to so many items, the lowest rank is looked for one by one."""
NONE = np.uint32(0xFFFFFFFF)
"""The rank of a pair that is never joined."""
CHARACTER = np.uint64(2**ITEM_BITS - 1)
"""In the place of a left item: the right one is a character."""
SPECIAL, NOTHING = -1, -2
"""Marks of ``Merges.tokens``: an added token that counts as text; no added token ends here."""
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_1 = np.uint64(1)
_ITEM = np.uint64(ITEM_BITS)
_RANK = np.uint64(RANK_BITS)
_RANKS = np.uint64(2**RANK_BITS - 1)


class Merges(NamedTuple):
    """A model as arrays. Shapes in brackets."""

    pairs: NDArray[np.uint64]
    """(capacity,), a hash table of (left item << 22 | right item) << 20 | rank."""
    become: NDArray[np.uint32]
    """(ranks,): the item that a pair becomes; behind the merges also the item of each character."""
    first: NDArray[np.uint32]
    """(128, 128): the ranks of pairs of ASCII characters."""
    ascii: NDArray[np.uint32]
    """(128,): the items of ASCII characters."""
    byte_ids: NDArray[np.uint32]
    """(256,): the item of each byte, for characters that are none."""
    classes: NDArray[np.uint8]
    """(256,): column of ``trie`` of each byte that added tokens have; 0 for others."""
    trie: NDArray[np.int32]
    """(nodes, columns): the next node, 0 where there is none. Node 0 is the root."""
    tokens: NDArray[np.int64]
    """(nodes,): the id of the added token that ends here, or a mark."""


class MergeBuffers(NamedTuple):
    """Room for the longest text: (bytes,), and three times that for the heap."""

    items: NDArray[np.uint32]
    ranks: NDArray[np.uint32]
    """Of the item and its right neighbour; ``NONE`` also where no item is left."""
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    heap: NDArray[np.uint64]


def make_merge_buffers(size: int) -> MergeBuffers:
    """Room for texts of ``size`` bytes; memory is taken as it is touched."""
    items, links = np.empty((2, size + 1), np.uint32), np.empty((2, size + 1), np.int64)
    return MergeBuffers(items[0], items[1], links[0], links[1], np.empty(3 * size + 1, np.uint64))


@njit
def fill_pairs(lefts, rights, pairs):  # type: ignore[no-untyped-def]
    """Enter pairs into the empty table, each with its place as rank; False if one comes twice."""
    last = np.uint64(len(pairs) - 1)
    pairs[:] = _EMPTY
    for rank in range(len(lefts)):
        key = lefts[rank] << _ITEM | rights[rank]
        at = _slot(key, last)
        while pairs[at] != _EMPTY:
            if pairs[at] >> _RANK == key:
                return False
            at = (at + _1) & last
        pairs[at] = key << _RANK | np.uint64(rank)
    return True


@njit
def fill_first(pairs, items, first):  # type: ignore[no-untyped-def]
    """Look up all pairs of these items. first: (items, items)."""
    for left in range(len(items)):
        for right in range(len(items)):
            first[left, right] = look_up(pairs, items[left], items[right])


@njit_helper
def look_up(pairs, left, right):  # type: ignore[no-untyped-def]
    """The rank of a pair."""
    last = np.uint64(len(pairs) - 1)
    key = np.uint64(left) << _ITEM | np.uint64(right)
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
    text, start, stop, ids, at,
    pairs, become, first_ranks, ascii, byte_ids, classes, trie, tokens, items, ranks, before, after, heap,
):  # fmt: skip
    """Write the ids of ``text[start:stop]`` from ``ids[at]`` on, at most one per byte; where they end."""
    plain = place = start
    while place <= stop:
        token, end = NOTHING, place
        if place < stop and classes[text[place]] and trie[0, classes[text[place]]]:
            token, end = _added_token(text, place, stop, classes, trie, tokens)
        if plain < place and (token >= 0 or place == stop):
            count = _items(text, plain, place, pairs, become, first_ranks, ascii, byte_ids, items, ranks)
            if count <= SCANNED:
                at = _scan(count, pairs, become, items, ranks, ids, at)
            else:
                at = _merge(count, pairs, become, items, ranks, before, after, heap, ids, at)
        if token >= 0:
            ids[at] = token
            at += 1
            plain = end
        place = max(end, place + 1)
    return at


@njit_helper
def _added_token(text, start, stop, classes, trie, tokens):  # type: ignore[no-untyped-def]
    """The longest added token that begins at ``start``, and its end."""
    found, end = NOTHING, start
    node, place = 0, start
    while place < stop:
        node = trie[node, classes[text[place]]]
        if not node:
            break
        place += 1
        if tokens[node] != NOTHING:
            found, end = tokens[node], place
    return found, end


@njit_helper
def _scan(count, pairs, become, items, ranks, ids, at):  # type: ignore[no-untyped-def]
    """Join the pair of the lowest rank until there is none; write what is left."""
    while True:
        lowest, place = NONE, np.int64(-1)
        for number in range(count - 1):
            if ranks[number] < lowest:
                lowest, place = ranks[number], np.int64(number)
        if place < 0:
            break
        items[place] = become[lowest]
        count -= 1
        for number in range(place + 1, count):
            items[number], ranks[number] = items[number + 1], ranks[number + 1]
        if place + 1 < count:
            ranks[place] = look_up(pairs, items[place], items[place + 1])
        if place:
            ranks[place - 1] = look_up(pairs, items[place - 1], items[place])
    for number in range(count):
        ids[at + number] = items[number]
    return at + count


@njit
def _merge(count, pairs, become, items, ranks, before, after, heap, ids, at):  # type: ignore[no-untyped-def]
    """The same with a heap, which is slower for a word and much faster for a page."""
    size = 0
    for place in range(count):
        before[place], after[place] = place - 1, place + 1
        if ranks[place] != NONE:
            size = _push(heap, size, np.uint64(ranks[place]) << _32 | np.uint64(place))
    while size:
        first, size = _pop(heap, size)
        place = first & _LOW
        if ranks[place] != first >> _32:
            continue  # one of the two has been joined to another since
        gone, left = after[place], before[place]
        right = after[gone]
        items[place] = become[ranks[place]]
        ranks[place] = ranks[gone] = NONE
        after[place] = right
        if right < count:
            before[right] = place
            ranks[place] = look_up(pairs, items[place], items[right])
            if ranks[place] != NONE:
                size = _push(heap, size, np.uint64(ranks[place]) << _32 | np.uint64(place))
        if left >= 0:
            ranks[left] = look_up(pairs, items[left], items[place])
            if ranks[left] != NONE:
                size = _push(heap, size, np.uint64(ranks[left]) << _32 | np.uint64(left))
    place = 0
    while place < count:
        ids[at] = items[place]
        at += 1
        place = after[place]
    return at


@njit
def _items(text, start, stop, pairs, become, first_ranks, ascii, byte_ids, items, ranks):  # type: ignore[no-untyped-def]
    """The items that a text begins with, one a character or one a byte, and their ranks; how many."""
    count, place, plain = 0, start, False
    while place < stop:
        first = np.int64(text[place])
        if first < 128 and ascii[first] != NONE:
            items[count] = ascii[first]
            if count:
                ranks[count - 1] = (
                    first_ranks[text[place - 1], first]
                    if plain
                    else look_up(pairs, items[count - 1], items[count])
                )
            plain = True
            count += 1
            place += 1
            continue
        plain = False
        width = _width(first, stop - place)
        begin = count
        known = look_up(pairs, CHARACTER, _code(text, place, width))
        if known != NONE:
            items[count] = become[known]
            count += 1
        else:
            for byte in text[place : place + width]:
                items[count] = byte_ids[byte]
                count += 1
        for number in range(max(begin, 1), count):
            ranks[number - 1] = look_up(pairs, items[number - 1], items[number])
        place += width
    ranks[count - 1] = NONE
    return count


@njit_helper
def _width(first, most):  # type: ignore[no-untyped-def]
    """Bytes of the character that begins with this one."""
    return min(most, 1 if first < 0xC0 else (2 if first < 0xE0 else (3 if first < 0xF0 else 4)))


@njit_helper
def _code(text, place, width):  # type: ignore[no-untyped-def]
    code = np.int64(text[place])
    if width > 1:
        code &= 0xFF >> (width + 1)
    for byte in text[place + 1 : place + width]:
        code = code << 6 | np.int64(byte) & 0x3F
    return code


@njit
def _push(heap, size, key):  # type: ignore[no-untyped-def]
    """One more key; the new size."""
    at = size
    while at and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key
    return size + 1


@njit_helper
def _pop(heap, size):  # type: ignore[no-untyped-def]
    """The least key, taken out, and the new size."""
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
