"""The training split of a pack in which some conversations have no labels.

Rows keep their tokens and their places, so every step takes the same rows; the loss is the mean over the
labels that are left.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.document import IGNORED
from gemfit.data.pack.reader import PackedRows, Row
from gemfit.errors import UserError


class Skipped(NamedTuple):
    """What skipping takes from the training."""

    rows: tuple[int, ...]
    """Rows that hold some of the conversation's trained tokens."""
    trained_tokens: int


class RowsWithSkips(PackedRows):
    """The rows of the training split without the labels of ``documents``.

    ``UserError`` for a document without a trained token in this split: skipping it would change nothing.
    """

    def __init__(self, folder: Path, documents: Collection[int]) -> None:
        super().__init__(folder, "train")
        self._documents = tuple(documents)
        self._places = self._find(np.array(sorted(set(documents)), np.int64))
        self.skipped = {document: self._skipped(document) for document in documents}
        self._trained_tokens = np.array(super().trained_tokens)
        for row in self._places:
            self._trained_tokens[row] = _count(self[row].labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowsWithSkips, (self._folder, self._documents)

    def __getitem__(self, index: int) -> Row:
        row = super().__getitem__(index)
        if index not in self._places:
            return row
        labels = row.labels.copy()
        for _, start, stop in self._places[index]:
            labels[start:stop] = IGNORED
        return replace(row, labels=labels)

    @property
    def trained_tokens(self) -> NDArray[np.int64]:
        return self._trained_tokens

    def _find(self, documents: NDArray[np.int64]) -> dict[int, list[tuple[int, int, int]]]:
        """By row: document, start and stop of each of its chunks that is skipped."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        for number, first in enumerate(self._batches[:, 1].tolist()):
            batch = self._batch(number)
            stops = np.cumsum(batch.seq_lengths)
            for chunk in np.flatnonzero(np.isin(batch.document, documents)).tolist():
                row = int(np.searchsorted(batch.ends, chunk, side="right")) - 1
                begin = int(batch.ends[row])
                offset = int(stops[begin - 1]) if begin else 0
                stop = int(stops[chunk]) - offset
                span = int(batch.document[chunk]), stop - int(batch.seq_lengths[chunk]), stop
                found.setdefault(first + row, []).append(span)
        return found

    def _skipped(self, document: int) -> Skipped:
        tokens: dict[int, int] = {}
        for row, chunks in self._places.items():
            labels = super().__getitem__(row).labels
            # A row's first label is never trained.
            counts = [
                int((labels[max(start, 1) : stop] != IGNORED).sum())
                for one, start, stop in chunks
                if one == document
            ]
            if sum(counts):
                tokens[row] = sum(counts)
        if not tokens:
            raise UserError(
                f"skip_documents: document {document} has no trained token in the training split of "
                f"{self._folder}; `gemfit data blame RUN --worst 3` names documents"
            )
        return Skipped(tuple(sorted(tokens)), sum(tokens.values()))


def open_training_rows(folder: Path, skip: Collection[int]) -> PackedRows:
    """The rows of the training split, without the labels of the documents ``skip``."""
    return RowsWithSkips(folder, skip) if skip else PackedRows(folder, "train")


def _count(labels: NDArray[np.int32]) -> int:
    return int((labels[1:] != IGNORED).sum())
