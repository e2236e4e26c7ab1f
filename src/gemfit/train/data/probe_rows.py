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


def row_of(trainer: TrainerView, documents: list[Any], *, whole: bool = False) -> Tensors:
    """One collated row of ``documents``, every token but the first of the row labelled.

    With sequence parallelism it is this rank's slice, unless ``whole``.
    """
    degree = trainer.sequence.degree
    row = whole_row(trainer, documents, -(-(sum(LENGTHS) + PADDING) // degree) * degree)
    return row if whole else slice_rows(row, trainer.sequence)


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


def probe_batch(trainer: TrainerView, *, whole: bool = False) -> Tensors:
    """One row of two random documents on the training device, with its targets; see ``row_of``."""
    documents = [random_ids(trainer, length, seed=length) for length in LENGTHS]
    row = row_of(trainer, documents, whole=whole)
    return to_device(row, trainer.args.device)
