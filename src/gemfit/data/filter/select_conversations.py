"""Conversation selection: deduplication, validation split and mixture weights.

The result depends on content, settings and the order of the sources only, not on the order of lines, their
distribution over files, or the number of processes. A million conversations take at most 63 MB in addition
to their columns on disk; the result takes 15 MB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import release_pages, slices
from gemfit.data.dedup.groups import Indices, merge_groups
from gemfit.data.dedup.lsh import near_duplicate_groups
from gemfit.data.filter.duplicates import (
    drop_near_duplicates,
    gathered,
    leave_out_of_training,
    remove_exact_duplicates,
)
from gemfit.data.filter.mixture import copies_by_weight
from gemfit.data.filter.selection import NO_SPLIT, TRAIN, VALIDATION, Disposition, Selection, SelectionInput
from gemfit.data.filter.splits import assign_splits, split_template_groups
from gemfit.schemas.recipe_data import DataRecipe


def select_conversations(candidates: SelectionInput, data: DataRecipe, seed: int) -> Selection:
    """Remove duplicates, assign splits and apply weights; ``within_max_rows`` follows."""
    disposition = candidates.disposition.copy()
    order, original = remove_exact_duplicates(candidates.digests, disposition)
    near_groups = np.arange(len(order), dtype=np.int32)
    if data.near_duplicates != "ignore":
        near_groups = near_duplicate_groups(candidates.signatures, order)
    normalized_hashes = gathered(candidates.normalized_hashes, order)
    groups = merge_groups(near_groups, normalized_hashes)
    if data.near_duplicates == "drop":
        drop_near_duplicates(candidates, order, normalized_hashes, groups, disposition, original)
    split = np.full(len(disposition), NO_SPLIT, np.int8)
    together = split_template_groups(near_groups, groups, normalized_hashes)
    if data.validation:
        in_validation = candidates.source[order] < len(data.validation)
        leave_out_of_training(order, together, in_validation, disposition, original)
        split[order] = np.where(in_validation, VALIDATION, TRAIN)
    else:
        split[order] = assign_splits(normalized_hashes, together, data.validation_share)
    del together, near_groups, groups, normalized_hashes
    copies = _copies(candidates, data, seed, order)
    # Validation gains nothing from a second copy.
    np.minimum(copies, 1, out=copies, where=split == VALIDATION)
    disposition[(disposition == Disposition.KEPT) & (copies == 0)] = Disposition.LEFT_BY_WEIGHT
    return _make_selection(disposition, copies, split, original, order)


def _copies(candidates: SelectionInput, data: DataRecipe, seed: int, order: Indices) -> NDArray[np.int32]:
    """Copies of each conversation by the weight of its source: (conversations,)."""
    weights = np.array([source.weight for source in data.all_sources])
    copies = np.zeros(len(candidates.disposition), np.int32)
    for here in slices(len(order)):
        chosen = order[here]
        weight = weights[candidates.source[chosen]]
        copies[chosen] = copies_by_weight(candidates.digests[chosen], weight, seed)
    release_pages(candidates.digests)
    return copies


def _make_selection(
    disposition: NDArray[np.int8],
    copies: NDArray[np.int32],
    split: NDArray[np.int8],
    original: Indices,
    order: Indices,
) -> Selection:
    out = disposition != Disposition.KEPT
    copies[out], split[out] = 0, NO_SPLIT
    return Selection(
        disposition=disposition, copies=copies, split=split, original=original, order=order[~out[order]]
    )
