"""Packed rows become tensors in which no document can see another.

Isolation rests on ``position_ids`` that restart with every document and on the absence of an attention
mask. The padding at the end of a row is a document of its own. FlashAttention does not look at
positions of several rows at once, so there the rows are flattened and the boundaries are said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gemfit.data.pack.reader import Row
from gemfit.train.model.packed_lm import IGNORED

Tensors: TypeAlias = dict[str, Any]
"""Tensors by argument name; FlashAttention's longest lengths are integers."""


def collate(rows: Sequence[Row | None], *, seq_len: int, pad_id: int, flatten: bool) -> Tensors:
    """The arguments of a ``Packed`` model for ``rows``; ``None`` is an empty row of zero weight.

    ``input_ids``, ``position_ids``, ``targets``: (rows, seq_len), or (1, rows * seq_len) when
    ``flatten``; then ``cu_seq_lens_q`` and its siblings hold the boundaries.
    """
    ids = np.full((len(rows), seq_len), pad_id, np.int64)
    targets = np.full((len(rows), seq_len), IGNORED, np.int64)
    lengths = [document_lengths(row, seq_len) for row in rows]
    for place, row in enumerate(rows):
        if row is not None:
            ids[place] = row.input_ids
            # The token at a place is predicted one place earlier; a row's first label is never trained.
            targets[place, :-1] = row.labels[1:]
    positions = np.stack([_positions(of_row) for of_row in lengths])
    if not flatten:
        return _tensors(ids, positions, targets)
    flat = _tensors(ids.reshape(1, -1), positions.reshape(1, -1), targets.reshape(1, -1))
    return flat | _boundaries(np.concatenate(lengths))


def document_lengths(row: Row | None, seq_len: int) -> NDArray[np.int64]:
    """Lengths of the documents of a row, its padding last: they add up to ``seq_len``."""
    lengths = [] if row is None else row.seq_lengths.tolist()
    tail = seq_len - sum(lengths)
    return np.array([*lengths, tail] if tail else lengths, np.int64)


def _positions(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, … for each document, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)


def _boundaries(lengths: NDArray[np.int64]) -> Tensors:
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    longest = int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def _tensors(ids: NDArray[np.int64], positions: NDArray[np.int64], targets: NDArray[np.int64]) -> Tensors:
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "targets": torch.from_numpy(targets),
    }
