"""Synthetic rows of random tokens for checks of a prepared model; equal on every rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from gemfit.data.document import IGNORED
from gemfit.data.pack.reader import Row
from gemfit.train.data.collate import Tensors, collate, needs_boundaries, to_device
from gemfit.train.data.row_slices import slice_rows
from gemfit.train.trainer_view import TrainerView

LENGTHS = (37, 23)
"""Of the two documents of a row; ``PADDING`` tokens follow."""
PADDING = 4


def random_ids(trainer: TrainerView, count: int, seed: int = 1) -> Any:
    """Token ids from a generator of their own: (count,)."""
    vocabulary = trainer.accelerator.unwrap_model(trainer.model_wrapped).config.vocab_size
    return np.random.default_rng(seed).integers(0, vocabulary, count)


def row_of(trainer: TrainerView, documents: list[Any]) -> Tensors:
    """One collated row of ``documents``, every token but the first of the row labelled; this rank's slice."""
    degree = trainer.sequence.degree
    seq_len = -(-(sum(LENGTHS) + PADDING) // degree) * degree
    return slice_rows(whole_row(trainer, documents, seq_len), trainer.sequence)


def whole_row(trainer: TrainerView, documents: list[Any], seq_len: int) -> Tensors:
    """One collated row of ``documents`` and ``seq_len`` tokens, whole on each rank; see ``row_of``."""
    ids, labels = np.full(seq_len, trainer.pad_id, np.int32), np.full(seq_len, IGNORED, np.int32)
    tokens = np.concatenate(documents).astype(np.int32)
    ids[: len(tokens)], labels[1 : len(tokens)] = tokens, tokens[1:]
    row = Row(ids, labels, np.array([len(document) for document in documents], np.int32))
    model = trainer.plan.recipe.model
    return collate(
        [row],
        seq_len=seq_len,
        pad_id=trainer.pad_id,
        flatten=needs_boundaries(model.attention),
        documents=len(LENGTHS) + 1 if model.compile else None,
    )


def probe_batch(trainer: TrainerView) -> Tensors:
    """One row of two random documents on the training device, with its targets."""
    row = row_of(trainer, [random_ids(trainer, length, seed=length) for length in LENGTHS])
    return to_device(row, trainer.args.device)
