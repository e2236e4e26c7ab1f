"""Slices of collated rows for sequence parallelism: each rank of a group holds some tokens of every row."""

from __future__ import annotations

import torch

from gemfit.train.data.collate import Tensors, loss_places
from gemfit.train.sequence_group import SequenceGroup

SLICED = ("input_ids", "position_ids", "targets")
"""Arguments of one number per token. Targets and positions were made of whole rows, so that the slice needs
nothing of its neighbours."""


def slice_rows(batch: Tensors, sequence: SequenceGroup) -> Tensors:
    """The contiguous slice of ``batch`` that this rank of ``sequence`` holds: (rows, tokens / degree).

    ``row_position_ids`` and the boundaries of documents remain those of the whole rows: masks are made of
    them. ``sequence_group`` is where attention exchanges heads.
    """
    if sequence.degree == 1:
        return batch
    whole = batch["position_ids"]
    size = whole.shape[1] // sequence.degree
    start = sequence.place * size
    mine = {name: batch[name][:, start : start + size].contiguous() for name in SLICED}
    places = torch.from_numpy(loss_places(mine["targets"].numpy()))
    return batch | mine | {"places": places, "row_position_ids": whole, "sequence_group": sequence.group}
