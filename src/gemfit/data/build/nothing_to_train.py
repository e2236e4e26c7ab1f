"""Error text for a pack without training conversations: counts by reason, and the way out."""

from __future__ import annotations

import numpy as np

from gemfit.data.filter.selection import VALIDATION, Disposition, Selection
from gemfit.schemas.recipe_data import DataRecipe

_WENT = {
    Disposition.DUPLICATE: ("duplicates", "give other data"),
    Disposition.NEAR_DUPLICATE: ("near-duplicates", "give other data, or change data.near_duplicates"),
    Disposition.LEFT_BY_WEIGHT: ("left out by the `weight` of their source", "raise it"),
    Disposition.OVERLONG: (
        "were longer than data.seq_len and dropped",
        "raise it, or use data.overlong: split",
    ),
    Disposition.UNTRAINED: (
        "without a trained token in what fits into data.seq_len",
        "raise it, or use data.overlong: split",
    ),
}
"""By disposition: what its conversations are, and what to do."""


def nothing_to_train(selection: Selection, data: DataRecipe) -> str:
    """Counts of all conversations by the reason why they are not trained."""
    counts = {kind: int(np.count_nonzero(selection.disposition == kind)) for kind in _WENT}
    parts = [f"{counts[kind]} {what} ({way_out})" for kind, (what, way_out) in _WENT.items() if counts[kind]]
    if held := int(np.count_nonzero(selection.split == VALIDATION)):
        parts.append(f"{held} in the validation split ({_held_by(data)})")
    return f"no conversation is left to train on: of {len(selection.disposition)}, {', '.join(parts)}"


def _held_by(data: DataRecipe) -> str:
    if data.validation:
        return "by data.validation; give more data"
    return (
        f"data.validation_share: {data.validation_share}; near-duplicates stay on one side, "
        f"data.near_duplicates: {data.near_duplicates}; give more data, or change these"
    )
