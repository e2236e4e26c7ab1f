"""Collate packed rows with per-document position ids (no cross-document attention).

Isolation rests on ``position_ids`` that restart with every document and on the absence of an attention
mask. The padding at the end of a row is a document of its own. FlashAttention and varlen do not derive
boundaries from the positions of several rows, so there the rows are flattened and ``cu_seq_lens`` are passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gemfit.data.document import IGNORED
from gemfit.data.pack.reader import Row
from gemfit.schemas.recipe_model import TAKES_BOUNDARIES

LOSS_SLICE_TOKENS = 1024
"""Tokens whose logits exist at a time."""
PLACES_UNIT = 128
Tensors: TypeAlias = dict[str, Any]
"""Tensors by argument name; FlashAttention's longest lengths are integers."""


def needs_boundaries(attention: str) -> bool:
    """Whether this attention takes flattened rows with the boundaries of documents, not their positions."""
    return attention in TAKES_BOUNDARIES


def collate(
    rows: Sequence[Row | None], *, seq_len: int, pad_id: int, flatten: bool, documents: int | None = None
) -> Tensors:
    """The arguments of a ``PackedCausalLM`` for ``rows``; ``None`` is an empty row of zero weight.

    ``input_ids``, ``position_ids``, ``targets``: (rows, seq_len), or (1, rows * seq_len) when
    ``flatten``; then ``cu_seq_lens_q`` and its siblings hold the boundaries. ``places``: see ``loss_places``.
    With ``documents``, the most that a row has with its padding, neither shapes nor lengths of boundaries
    differ between batches: compiled code would be compiled again for each. They end in empty documents.
    """
    ids = np.full((len(rows), seq_len), pad_id, np.int64)
    targets = np.full((len(rows), seq_len), IGNORED, np.int64)
    lengths = [document_lengths(row, seq_len) for row in rows]
    for index, row in enumerate(rows):
        if row is not None:
            ids[index] = row.input_ids
            # A token is predicted at the position before it, so a row's first label is never trained.
            targets[index, :-1] = row.labels[1:]
    positions = np.stack([_positions(of_row) for of_row in lengths])
    if not flatten:
        return _tensors(ids, positions, targets)
    flat = _tensors(ids.reshape(1, -1), positions.reshape(1, -1), targets.reshape(1, -1))
    boundaries = _boundaries(np.concatenate(lengths))
    return flat | (boundaries if documents is None else _constant(boundaries, len(rows) * documents, seq_len))


def document_lengths(row: Row | None, seq_len: int) -> NDArray[np.int64]:
    """Lengths of the documents of a row, its padding last: they add up to ``seq_len``."""
    lengths = [] if row is None else row.seq_lengths.tolist()
    tail = seq_len - sum(lengths)
    return np.array([*lengths, tail] if tail else lengths, np.int64)


def to_device(batch: Tensors, device: torch.device) -> Tensors:
    """``batch`` with its tensors on ``device``; from pinned memory they are copied asynchronously."""
    return {
        key: v.to(device, non_blocking=v.is_pinned()) if isinstance(v, torch.Tensor) else v
        for key, v in batch.items()
    }


def _positions(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position ids: 0, 1, 2, … for each document, concatenated."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)


def _boundaries(lengths: NDArray[np.int64]) -> Tensors:
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    longest = int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def _constant(boundaries: Tensors, documents: int, seq_len: int) -> Tensors:
    """``boundaries`` of ``documents`` documents, the last ones empty, and an upper bound of their lengths."""
    ends = boundaries["cu_seq_lens_q"]
    padded = torch.cat([ends, ends[-1:].expand(documents + 1 - len(ends))])
    return {
        "cu_seq_lens_q": padded,
        "cu_seq_lens_k": padded,
        "max_length_q": seq_len,
        "max_length_k": seq_len,
    }


def _tensors(ids: NDArray[np.int64], positions: NDArray[np.int64], targets: NDArray[np.int64]) -> Tensors:
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "targets": torch.from_numpy(targets),
        "places": torch.from_numpy(loss_places(targets)),
    }


def loss_places(targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat places whose logits the loss takes: all that have a target, then some that have none.

    Known on the host, they need no question to the GPU. Each of the loss slices gets a multiple of
    ``PLACES_UNIT`` places: few sizes of logits, so that the allocator can use the memory of one again.
    """
    trained = targets.reshape(-1) != IGNORED
    unit = loss_slices(len(trained)) * PLACES_UNIT
    count = min(-(-int(trained.sum()) // unit) * unit, len(trained))
    return np.argsort(~trained, kind="stable")[:count]


def loss_slices(tokens: int) -> int:
    """Loss slices of a batch of ``tokens``, labelled or not; under ZeRO-3 each gathers the output layer.

    So all ranks have the same number.
    """
    return -(-tokens // LOSS_SLICE_TOKENS)
