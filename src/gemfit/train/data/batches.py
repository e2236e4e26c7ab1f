"""Row schedule and batches: which packed rows each optimizer step takes, as a function of the plan.

Every rank computes it without communication; starting at step k costs no more than starting at step 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from gemfit.data.pack.reader import PackedRows, Row
from gemfit.data.pack.shuffle import EMPTY, rank_rows, rows_of_step
from gemfit.schemas.plan import Plan
from gemfit.train.data.collate import Tensors, collate, needs_boundaries
from gemfit.train.data.row_slices import slice_rows
from gemfit.train.sequence_group import ALONE, SequenceGroup


class RowSchedule:
    """The rows of every optimizer step of a plan, and their token counts."""

    def __init__(self, plan: Plan, rows: PackedRows) -> None:
        self.plan, self.rows = plan, rows
        global_batch_size, length = plan.batch.global_batch_size, plan.recipe.length
        # Epochs follow each other without a gap, so only the very last step can be short of rows.
        self.total_rows = (
            plan.steps.total * global_batch_size
            if length.num_epochs is None
            else min(plan.steps.total * global_batch_size, round(length.num_epochs * len(rows)))
        )

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """Pack rows of ``step``, which counts from 0: (global_batch_size,), ``EMPTY`` after the last row."""
        return rows_of_step(
            step,
            global_batch_size=self.plan.batch.global_batch_size,
            rows_per_epoch=len(self.rows),
            total_rows=self.total_rows,
            seed=self.plan.recipe.seed,
        )

    def tokens(self, step: int) -> int:
        """Real tokens of ``step`` over all ranks."""
        return int(self.rows.tokens[_real(self.rows_of(step))].sum())

    def trained_tokens(self, step: int) -> int:
        """Tokens with a label in ``step`` over all ranks."""
        return int(self.rows.trained_tokens[_real(self.rows_of(step))].sum())

    def cursor(self, steps_done: int) -> int:
        """Next row of the stream over all epochs after ``steps_done`` steps."""
        return min(steps_done * self.plan.batch.global_batch_size, self.total_rows)

    def epoch(self, steps_done: int) -> float:
        """Passes over the data after ``steps_done`` steps."""
        return self.cursor(steps_done) / len(self.rows)


class TrainBatches(IterableDataset[Tensors]):
    """The training batches of one rank, one per gradient accumulation step, from ``start_step`` on."""

    def __init__(
        self, schedule: RowSchedule, rank: int, pad_id: int, sequence: SequenceGroup = ALONE
    ) -> None:
        self.schedule, self.rank, self.pad_id, self.sequence = schedule, rank, pad_id, sequence
        self.documents = constant_documents(schedule.rows, schedule.plan)
        self.start_step = 0

    def __iter__(self) -> Iterator[Tensors]:
        plan = self.schedule.plan
        for step in range(self.start_step, plan.steps.total):
            step_tokens = self.schedule.trained_tokens(step)
            for rows in rank_rows(self.schedule.rows_of(step), plan.batch, self.rank):
                batch = batch_of(self.schedule.rows, rows, plan, self.pad_id, self.documents)
                yield slice_rows(batch, self.sequence) | {"step_tokens": step_tokens, "rows": rows.tolist()}


class ValidationBatches(IterableDataset[Tensors]):
    """The validation rows of one rank; every rank takes the same number of batches."""

    def __init__(
        self, plan: Plan, rows: PackedRows, rank: int, pad_id: int, sequence: SequenceGroup = ALONE
    ) -> None:
        self.plan, self.rows, self.pad_id, self.sequence = plan, rows, pad_id, sequence
        self.data_rank = plan.batch.data_rank(rank)
        self.documents = constant_documents(rows, plan)

    def __len__(self) -> int:
        return -(-len(self.rows) // (self.plan.batch.per_device_batch_size * self.plan.batch.data_ranks))

    def __iter__(self) -> Iterator[Tensors]:
        batch = self.plan.batch
        for number in range(len(self)):
            start = (number * batch.data_ranks + self.data_rank) * batch.per_device_batch_size
            rows = np.arange(start, start + batch.per_device_batch_size)
            known = np.where(rows < len(self.rows), rows, EMPTY)
            whole = batch_of(self.rows, known, self.plan, self.pad_id, self.documents)
            yield slice_rows(whole, self.sequence)


def constant_documents(rows: PackedRows, plan: Plan) -> int | None:
    """The documents of each row, its padding included, to which compiled layers need boundaries padded."""
    model = plan.recipe.model
    return rows.most_documents + 1 if model.compile and needs_boundaries(model.attention) else None


def batch_of(
    pack: PackedRows, rows: NDArray[np.int64], plan: Plan, pad_id: int, documents: int | None = None
) -> Tensors:
    """Tensors of these pack rows; ``EMPTY`` is a row of zero weight. For ``documents`` see ``collate``."""
    found: list[Row | None] = [None if row == EMPTY else pack[int(row)] for row in rows]
    flatten = needs_boundaries(plan.recipe.model.attention)
    return collate(found, seq_len=plan.batch.seq_len, pad_id=pad_id, flatten=flatten, documents=documents)


def _real(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[rows != EMPTY]
