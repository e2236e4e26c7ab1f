"""Near-duplicate detection by locality-sensitive hashing (LSH) of MinHash signatures (see ``minhash``).

Signatures are cut into bands, and two conversations with an equal band are compared. Bands are processed
one after another, with 12 bytes per conversation and a hash table of at most 32 MiB. Signatures stay on
disk: each is read when its conversation is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import ColumnFile, pread, release_pages, slices
from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import MURMUR_MIX_1

MAX_COMPARISONS = 8
"""Earlier members of a bucket that a conversation is compared with, at most. Of near-duplicates the latest
one is enough. The members of a large bucket that are not near-duplicates share a template; the more of them
are compared, the more pass by chance and chain all of them into one group."""
MAX_REPRESENTATIVES = 256
"""Representatives of a group that each conversation is compared with, at most."""
RECALL = 0.98
"""Least probability that a pair exactly at the threshold becomes a candidate."""
_HALF = np.uint64(32)
MAX_TABLE_KEYS = 2**22
"""Keys in the hash table at a time; more are processed in several partitions."""

Indices = NDArray[np.int32]
"""Indices into the conversations, or into an order of them."""


class Signatures:
    """MinHash signatures of conversations on disk, with the keys of their LSH bands; close them at the end.

    num_hashes: values per signature; 0 if near-duplicates are ignored, and nothing is stored.
    """

    def __init__(self, num_hashes: int, threshold: float, folder: Path | None = None) -> None:
        self.num_hashes = num_hashes
        self.min_equal = _min_equal_hashes(threshold, num_hashes)
        self.width = band_width(num_hashes, threshold)
        self.values = ColumnFile(folder, np.uint32, num_hashes)
        """(conversations, num_hashes)"""
        self._bands = [ColumnFile(folder, np.uint64) for _ in range(num_hashes // self.width)]

    def __len__(self) -> int:
        return len(self.values)

    def append(self, values: NDArray[np.uint32]) -> None:
        """Add the signatures of some conversations: (conversations, num_hashes)."""
        self.values.append(values)
        for number, band in enumerate(self._bands):
            band.append(_band_keys(values, number * self.width, (number + 1) * self.width))

    def band(self, number: int, order: Indices) -> NDArray[np.uint64]:
        """Keys of a band of the conversations in ``order``: (order,)."""
        keys = self._bands[number].mapped()
        found = np.empty(len(order), np.uint64)
        for here in slices(len(order)):
            found[here] = keys[order[here]]
        release_pages(keys)
        return found

    @property
    def num_bands(self) -> int:
        """Bands of each signature."""
        return len(self._bands)

    def close(self) -> None:
        """Close and delete the files."""
        for column in (self.values, *self._bands):
            column.close()


def near_duplicate_groups(
    signatures: Signatures, order: Indices, max_table_keys: int = MAX_TABLE_KEYS
) -> Indices:
    """The group of each conversation in ``order``, as the index in ``order`` of its first member: (order,).

    Conversations whose estimated similarity reaches the threshold share a group, also through a chain of
    such pairs. If ``order`` sorts by digest, the groups do not depend on the order of the input.
    """
    parents = np.arange(len(order), dtype=np.int32)
    for number in range(signatures.num_bands):
        keys = signatures.band(number, order)
        descriptor, num_hashes = signatures.values.descriptor, signatures.num_hashes
        _unite_by_band(keys, order, descriptor, num_hashes, signatures.min_equal, parents, max_table_keys)
    return np.asarray(_roots(parents))


def representatives(
    signatures: Signatures,
    order: Indices,
    normalized_hashes: NDArray[np.uint64],
    groups: Indices,
    ranked: Indices,
) -> Indices:
    """The index in ``order`` of the representative of each conversation: (order,); its own if it is one.

    normalized_hashes, groups: (order,). ranked: indices into order, by group, and in a group those that
    should become representatives first. A conversation is a near-duplicate of its representative or has
    the same normalized hash, so a chain of near-duplicates has several. One that is not in ``ranked``
    represents itself.
    """
    representative_of = np.arange(len(order), dtype=np.int32)
    descriptor, num_hashes = signatures.values.descriptor, signatures.num_hashes
    _assign_representatives(
        ranked,
        groups,
        descriptor,
        num_hashes,
        order,
        normalized_hashes,
        signatures.min_equal,
        representative_of,
    )
    return representative_of


def merge_groups(parents: Indices, same: NDArray[np.uint64], max_table_keys: int = MAX_TABLE_KEYS) -> Indices:
    """The groups of ``parents``, merged where they share a value of ``same``."""
    merged = parents.copy()
    _unite_equal_values(same, merged, max_table_keys)
    return np.asarray(_roots(merged))


def group_sizes(groups: Indices) -> Indices:
    """Size of the group of each conversation: (order,)."""
    return np.bincount(groups)[groups].astype(np.int32) if len(groups) else groups.copy()


def _roots(parents: Indices) -> Indices:
    """The root of each: parents point to smaller numbers, so each round halves the way."""
    while not np.array_equal(grand := parents[parents], parents):
        parents = grand
    return parents


def band_width(num_hashes: int, threshold: float) -> int:
    """The widest band that finds a pair at the threshold with a probability of ``RECALL``."""
    for width in range(num_hashes // 4, 1, -1):
        if 1 - (1 - threshold**width) ** (num_hashes // width) >= RECALL:
            return width
    return 1


def _min_equal_hashes(threshold: float, num_hashes: int) -> int:
    """Equal values of two signatures whose similarity is ``threshold``."""
    return int(np.ceil(threshold * num_hashes - 1e-9))


@njit
def _band_keys(signatures: Any, start: int, stop: int) -> Any:
    keys = np.empty(len(signatures), np.uint64)
    for at in range(len(signatures)):
        key = np.uint64(0)
        for column in range(start, stop):
            key = (key ^ np.uint64(signatures[at, column])) * MURMUR_MIX_1
            key ^= key >> _HALF
        keys[at] = key
    return keys


@njit_helper
def _root(parents: Any, index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


@njit_helper
def _unite(parents: Any, one: int, other: int) -> None:
    first, second = _root(parents, one), _root(parents, other)
    # The smaller index is the root, so that a group is named by its first member.
    if first < second:
        parents[second] = first
    else:
        parents[first] = second


@njit
def _empty_table(count: int, max_table_keys: int) -> Any:
    """Number of partitions of the keys, and an empty hash table with room for one of them."""
    partitions = count // max_table_keys + 1
    slots = 2
    while slots < 2 * (count // partitions):
        slots *= 2
    return partitions, np.full(slots, -1, np.int32)


@njit_helper
def _find_slot(table: Any, keys: Any, at: int) -> Any:
    """Slot of the latest entry with the key of ``at``, or of an empty one for it."""
    slot = np.int64(keys[at] % np.uint64(len(table)))
    while table[slot] >= 0 and keys[table[slot]] != keys[at]:
        slot = (slot + 1) % len(table)
    return slot


@njit
def _unite_by_band(
    keys: Any, order: Any, descriptor: int, num_hashes: int, min_equal: int, parents: Any, max_table_keys: int
) -> None:
    """Compare each with the latest ones before it that have an equal key, and unite near-duplicates."""
    before = np.empty(len(keys), np.int32)
    one, other = np.empty(num_hashes, np.uint32), np.empty(num_hashes, np.uint32)
    partitions, table = _empty_table(len(keys), max_table_keys)
    for partition in range(partitions):
        table[:] = -1
        for at in range(len(keys)):
            if (keys[at] >> _HALF) % np.uint64(partitions) != np.uint64(partition):
                continue
            slot = _find_slot(table, keys, at)
            earlier = table[slot]
            before[at], table[slot] = earlier, at
            is_read = False
            for _ in range(MAX_COMPARISONS):
                if earlier < 0:
                    break
                if _root(parents, at) != _root(parents, earlier):
                    if not is_read:
                        _read_signature(descriptor, order[at], one)
                        is_read = True
                    _read_signature(descriptor, order[earlier], other)
                    if _are_near_duplicates(one, other, min_equal):
                        _unite(parents, at, earlier)
                earlier = before[earlier]


@njit
def _assign_representatives(
    ranked: Any,
    groups: Any,
    descriptor: int,
    num_hashes: int,
    order: Any,
    normalized_hashes: Any,
    min_equal: int,
    representative_of: Any,
) -> None:
    representative_index = np.empty(MAX_REPRESENTATIVES, np.int64)
    representative_signatures = np.empty((MAX_REPRESENTATIVES, num_hashes), np.uint32)
    own = np.empty(num_hashes, np.uint32)
    count = 0
    for at in range(len(ranked)):
        index = ranked[at]
        if at and groups[index] != groups[ranked[at - 1]]:
            count = 0
        _read_signature(descriptor, order[index], own)
        for candidate in range(count):
            one = representative_index[candidate]
            if normalized_hashes[one] == normalized_hashes[index] or _are_near_duplicates(
                representative_signatures[candidate], own, min_equal
            ):
                representative_of[index] = one
                break
        if representative_of[index] == index and count < MAX_REPRESENTATIVES:
            representative_index[count] = index
            representative_signatures[count] = own
            count += 1


@njit
def _read_signature(descriptor: int, index: int, into: Any) -> None:
    """Read the signature of one conversation into ``into``."""
    size = 4 * len(into)
    offset = np.int64(size) * np.int64(index)
    if pread(descriptor, np.uintp(into.ctypes.data), np.uint64(size), offset) != size:
        raise OSError("a signature could not be read back from the cache's disk")


@njit_helper
def _are_near_duplicates(one: Any, other: Any, min_equal: int) -> bool:
    equal = 0
    for index in range(len(one)):
        equal += one[index] == other[index]
    return equal >= min_equal


@njit
def _unite_equal_values(values: Any, parents: Any, max_table_keys: int) -> None:
    partitions, table = _empty_table(len(values), max_table_keys)
    for partition in range(partitions):
        table[:] = -1
        for at in range(len(values)):
            if (values[at] >> _HALF) % np.uint64(partitions) != np.uint64(partition):
                continue
            slot = _find_slot(table, values, at)
            if table[slot] >= 0:
                _unite(parents, at, table[slot])
            table[slot] = at
