"""Groups of conversations: disjoint sets, merged where conversations share a hash."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper

HALF = np.uint64(32)
"""Bits in half of a hash; the upper half chooses the partition."""
MAX_TABLE_KEYS = 2**22
"""Keys in the hash table at a time; more are processed in several partitions."""


Indices = NDArray[np.int32]
"""Indices into the conversations, or into an order of them."""


def merge_groups(parents: Indices, same: NDArray[np.uint64], max_table_keys: int = MAX_TABLE_KEYS) -> Indices:
    """The groups of ``parents``, merged where they share a value of ``same``."""
    merged = parents.copy()
    _unite_equal_values(same, merged, max_table_keys)
    return np.asarray(roots(merged))


def group_sizes(groups: Indices) -> Indices:
    """Size of the group of each conversation: (order,)."""
    return np.bincount(groups)[groups].astype(np.int32) if len(groups) else groups.copy()


def roots(parents: Indices) -> Indices:
    """The root of each: parents point to smaller numbers, so each round halves the way."""
    while not np.array_equal(grand := parents[parents], parents):
        parents = grand
    return parents


@njit_helper
def root(parents: Any, index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


@njit_helper
def unite(parents: Any, one: int, other: int) -> None:
    first, second = root(parents, one), root(parents, other)
    # The smaller index is the root, so that a group is named by its first member.
    if first < second:
        parents[second] = first
    else:
        parents[first] = second


@njit
def empty_table(count: int, max_table_keys: int) -> Any:
    """Number of partitions of the keys, and an empty hash table with room for one of them."""
    partitions = count // max_table_keys + 1
    slots = 2
    while slots < 2 * (count // partitions):
        slots *= 2
    return partitions, np.full(slots, -1, np.int32)


@njit_helper
def find_slot(table: Any, keys: Any, at: int) -> Any:
    """Slot of the latest entry with the key of ``at``, or of an empty one for it."""
    slot = np.int64(keys[at] % np.uint64(len(table)))
    while table[slot] >= 0 and keys[table[slot]] != keys[at]:
        slot = (slot + 1) % len(table)
    return slot


@njit
def _unite_equal_values(values: Any, parents: Any, max_table_keys: int) -> None:
    partitions, table = empty_table(len(values), max_table_keys)
    for partition in range(partitions):
        table[:] = -1
        for at in range(len(values)):
            if (values[at] >> HALF) % np.uint64(partitions) != np.uint64(partition):
                continue
            slot = find_slot(table, values, at)
            if table[slot] >= 0:
                unite(parents, at, table[slot])
            table[slot] = at
