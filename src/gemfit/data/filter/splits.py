"""Train and validation split of groups of conversations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import slices
from gemfit.data.dedup.groups import Indices, group_sizes, merge_groups
from gemfit.data.filter.mixture import mix
from gemfit.data.filter.selection import TRAIN, VALIDATION

TEMPLATE_SHARE, TEMPLATE_SIZE = 0.01, 8
"""A group above both shares a template rather than copies; its members are split one by one. As a group
they could be all of the data, and all be in one split."""


_SPLIT_SALT = np.uint64(0x5E1F_0000_0000_0001)


def split_template_groups(
    near_groups: Indices, groups: Indices, normalized_hashes: NDArray[np.uint64]
) -> Indices:
    """The groups that share a split: of very large ``groups`` only those with equal normalized hashes."""
    large = group_sizes(groups) > max(TEMPLATE_SIZE, TEMPLATE_SHARE * len(groups))
    if not large.any():
        return groups
    return merge_groups(
        np.where(large, np.arange(len(groups), dtype=np.int32), near_groups), normalized_hashes
    )


def assign_splits(
    normalized_hashes: NDArray[np.uint64], groups: Indices, validation_share: float
) -> NDArray[np.int8]:
    """Train or validation split of each group, by a hash of its least normalized hash."""
    least = np.full(len(groups), np.iinfo(np.uint64).max, np.uint64)
    for here in slices(len(groups)):
        np.minimum.at(least, groups[here], normalized_hashes[here])
    split = np.empty(len(groups), np.int8)
    for here in slices(len(groups)):
        # Hashed again: the minimum of many is small, and large groups would all be in the validation split.
        draws = mix(least[groups[here]] ^ _SPLIT_SALT)
        split[here] = np.where(draws < np.uint64(int(validation_share * 2**64)), VALIDATION, TRAIN)
    return split
