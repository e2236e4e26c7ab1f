"""Check invariants of packed rows (lengths, labels, padding), compiled: about a nanosecond per token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit
from gemfit.data.document import IGNORED
from gemfit.data.inspect.pack_files import RowBatch

FAULTS = (
    "its seq_lengths are not positive, or do not add up to its tokens",
    "its trained_tokens are not the number of its labels",
    "a label is neither the token itself nor -100",
    "the padding is not the pad token",
    "the padding has a label",
    "the first token of a document has a label, so it would be predicted from another document",
    "a document has fewer tokens without a label than repeated ones",
    "under loss_on: all a token of a conversation has no label",
    "a document has a number that no conversation of this split has",
    "a document goes beyond the end of its conversation",
)
(LENGTHS, TRAINED, LABEL, PAD, PADDED_LABEL, FIRST, REPEATED, UNLABELLED, DOCUMENT, BEYOND) = range(
    len(FAULTS)
)


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """Expected values of the rows of a split."""

    pad_id: int
    all_trained: bool
    """Whether every token but the first of each conversation is trained."""
    lengths: NDArray[np.int32]
    """(documents,): tokens of each conversation; 0 if it is not in this split."""


@dataclass(slots=True)
class RowFaults:
    """Number and first position of each fault."""

    split: str
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FAULTS), np.int64))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.full(len(FAULTS), -1, np.int64))
    places: NDArray[np.int64] = field(default_factory=lambda: np.full(len(FAULTS), -1, np.int64))

    def messages(self) -> Iterator[str]:
        """One line per kind of fault that was found."""
        for fault in np.flatnonzero(self.counts).tolist():
            more = f" ({self.counts[fault]:,} times in all)" if self.counts[fault] > 1 else ""
            where = f"{self.split} row {self.rows[fault]:,}, place {self.places[fault]:,}"
            yield f"{where}: {FAULTS[fault]}{more}"


def check_rows(batch: RowBatch, rules: Rules, faults: RowFaults) -> NDArray[np.int32]:
    """Record all faults of the batch; the trained tokens of each chunk: (chunks,)."""
    trained: NDArray[np.int32] = _check(
        batch.input_ids,
        batch.labels,
        batch.ends,
        batch.lengths,
        batch.document,
        batch.starts,
        batch.repeated,
        batch.tokens,
        batch.trained_tokens,
        batch.first,
        rules.pad_id,
        rules.all_trained,
        rules.lengths,
        faults.counts,
        faults.rows,
        faults.places,
    )
    return trained


@njit
def _check(  # type: ignore[no-untyped-def]
    ids, labels, ends, lengths, document, starts, repeated, tokens, trained_tokens,
    first, pad_id, all_trained, conversation, counts, rows, places,
):  # fmt: skip
    trained = np.zeros(len(lengths), np.int32)
    for row in range(len(ids)):
        at, num_labels = 0, 0
        for chunk in range(ends[row], ends[row + 1]):
            begin = at
            at = min(at + max(lengths[chunk], 0), ids.shape[1])
            if lengths[chunk] <= 0 or at - begin < lengths[chunk]:
                _record(counts, rows, places, LENGTHS, first + row, begin)
            for place in range(begin, at):
                if labels[row, place] == IGNORED:
                    continue
                trained[chunk] += 1
                if labels[row, place] != ids[row, place]:
                    _record(counts, rows, places, LABEL, first + row, place)
            num_labels += trained[chunk]
            if at > begin and labels[row, begin] != IGNORED:
                _record(counts, rows, places, FIRST, first + row, begin)
            body = lengths[chunk] - repeated[chunk]
            if repeated[chunk] < 0 or trained[chunk] > body:
                _record(counts, rows, places, REPEATED, first + row, begin)
            elif all_trained and trained[chunk] != body - (starts[chunk] == 0):
                _record(counts, rows, places, UNLABELLED, first + row, begin)
            number = document[chunk]
            if number < 0 or number >= len(conversation) or conversation[number] == 0:
                _record(counts, rows, places, DOCUMENT, first + row, begin)
            elif starts[chunk] < 0 or starts[chunk] + body > conversation[number]:
                _record(counts, rows, places, BEYOND, first + row, begin)
        if at != tokens[row]:
            _record(counts, rows, places, LENGTHS, first + row, at)
        if num_labels != trained_tokens[row]:
            _record(counts, rows, places, TRAINED, first + row, 0)
        for place in range(at, ids.shape[1]):
            if ids[row, place] != pad_id:
                _record(counts, rows, places, PAD, first + row, place)
            if labels[row, place] != IGNORED:
                _record(counts, rows, places, PADDED_LABEL, first + row, place)
    return trained


@njit
def _record(counts, rows, places, fault, row, place):  # type: ignore[no-untyped-def]
    if counts[fault] == 0:
        rows[fault] = row
        places[fault] = place
    counts[fault] += 1
