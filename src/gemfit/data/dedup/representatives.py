"""The conversation that represents each near-duplicate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit
from gemfit.data.dedup.groups import Indices
from gemfit.data.dedup.signatures import Signatures, are_near_duplicates, read_signature

MAX_REPRESENTATIVES = 256
"""Representatives of a group that each conversation is compared with, at most."""


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
        read_signature(descriptor, order[index], own)
        for candidate in range(count):
            one = representative_index[candidate]
            if normalized_hashes[one] == normalized_hashes[index] or are_near_duplicates(
                representative_signatures[candidate], own, min_equal
            ):
                representative_of[index] = one
                break
        if representative_of[index] == index and count < MAX_REPRESENTATIVES:
            representative_index[count] = index
            representative_signatures[count] = own
            count += 1
