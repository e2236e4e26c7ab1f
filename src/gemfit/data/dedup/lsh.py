"""Near-duplicate detection by locality-sensitive hashing (LSH) of MinHash signatures (see ``minhash``).

Signatures are cut into bands, and two conversations with an equal band are compared. Bands are processed
one after another, with 12 bytes per conversation and a hash table of at most 32 MiB. Signatures stay on
disk: each is read when its conversation is compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gemfit.data.compiled import njit
from gemfit.data.dedup.groups import HALF, MAX_TABLE_KEYS, Indices, empty_table, find_slot, root, roots, unite
from gemfit.data.dedup.signatures import Signatures, are_near_duplicates, read_signature

MAX_COMPARISONS = 8
"""Earlier members of a bucket that a conversation is compared with, at most. Of near-duplicates the latest
one is enough. The members of a large bucket that are not near-duplicates share a template; the more of them
are compared, the more pass by chance and chain all of them into one group."""


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
    return np.asarray(roots(parents))


@njit
def _unite_by_band(
    keys: Any, order: Any, descriptor: int, num_hashes: int, min_equal: int, parents: Any, max_table_keys: int
) -> None:
    """Compare each with the latest ones before it that have an equal key, and unite near-duplicates."""
    before = np.empty(len(keys), np.int32)
    one, other = np.empty(num_hashes, np.uint32), np.empty(num_hashes, np.uint32)
    partitions, table = empty_table(len(keys), max_table_keys)
    for partition in range(partitions):
        table[:] = -1
        for at in range(len(keys)):
            if (keys[at] >> HALF) % np.uint64(partitions) != np.uint64(partition):
                continue
            slot = find_slot(table, keys, at)
            earlier = table[slot]
            before[at], table[slot] = earlier, at
            is_read = False
            for _ in range(MAX_COMPARISONS):
                if earlier < 0:
                    break
                if root(parents, at) != root(parents, earlier):
                    if not is_read:
                        read_signature(descriptor, order[at], one)
                        is_read = True
                    read_signature(descriptor, order[earlier], other)
                    if are_near_duplicates(one, other, min_equal):
                        unite(parents, at, earlier)
                earlier = before[earlier]
