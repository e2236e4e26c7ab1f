"""Row ledger: the rows fed to the ranks add up to those of the step, or an error is raised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gemfit.data.pack.shuffle import EMPTY, rank_rows
from gemfit.schemas.batch import Batch, make_batch
from gemfit.train.data.row_ledger import RowLedger


def fed(batch: Batch, rows: NDArray[np.int64]) -> list[list[list[int]]]:
    """For each rank the rows of its gradient accumulation steps."""
    return [[part.tolist() for part in rank_rows(rows, batch, rank)] for rank in range(batch.world_size)]


def summed(batch: Batch, parts: list[list[list[int]]]) -> list[float]:
    ledgers = [RowLedger(batch, rank) for rank in range(batch.world_size)]
    for ledger, batches in zip(ledgers, parts, strict=True):
        for rows in batches:
            ledger.add(rows, 0.0)
    return np.sum([ledger.take() for ledger in ledgers], axis=0).tolist()  # type: ignore[no-any-return]


@given(
    global_batch_size=st.integers(1, 40),
    per_device_batch_size=st.integers(1, 5),
    ranks=st.integers(1, 8),
    degree=st.sampled_from([1, 2, 4]),
    short=st.integers(0, 5),
)
def test_the_ranks_rows_are_the_steps_rows(
    global_batch_size: int, per_device_batch_size: int, ranks: int, degree: int, short: int
) -> None:
    batch = make_batch(
        global_batch_size=global_batch_size,
        max_per_device_batch_size=per_device_batch_size,
        world_size=min(ranks, global_batch_size) * degree,
        seq_len=8,
        sequence_parallel=degree,
    )
    rows = np.random.default_rng(1).permutation(1000)[:global_batch_size]
    rows[global_batch_size - min(short, global_batch_size) :] = EMPTY  # the last step of a run
    found = RowLedger(batch, 0).rows(summed(batch, fed(batch, rows)), rows)
    assert found.tolist() == rows.tolist()


def test_notes_are_taken_once() -> None:
    batch = make_batch(global_batch_size=4, max_per_device_batch_size=4, world_size=1, seq_len=8)
    ledger = RowLedger(batch, 0)
    for rows in ([3, 1, 2, 0], [7, 6, 5, 4]):
        ledger.add(rows, 0.0)
        assert ledger.rows(ledger.take(), np.array(rows)).tolist() == rows


@pytest.mark.parametrize("wrong", [[0, 1, 2, 9], [0, 1, 2, EMPTY], [1, 0, 2, 3]])
def test_a_row_lost_changed_or_swapped_is_reported(wrong: list[int]) -> None:
    batch = make_batch(global_batch_size=4, max_per_device_batch_size=2, world_size=2, seq_len=8)
    with pytest.raises(RuntimeError, match=r"slot \d of this step was trained on row -?\d, not on row \d"):
        RowLedger(batch, 0).rows(summed(batch, fed(batch, np.array(wrong))), np.arange(4))


def test_ranks_that_share_a_row_and_read_different_ones_are_reported() -> None:
    batch = make_batch(
        global_batch_size=2, max_per_device_batch_size=1, world_size=4, seq_len=8, sequence_parallel=2
    )
    with pytest.raises(RuntimeError, match=r"slot 0 of this step was trained on row 0\.5, not on row 0"):
        RowLedger(batch, 0).rows(summed(batch, [[[0]], [[1]], [[1]], [[1]]]), np.arange(2))


def test_a_missing_batch_is_reported() -> None:
    batch = make_batch(global_batch_size=4, max_per_device_batch_size=2, world_size=1, seq_len=8)
    ledger = RowLedger(batch, 0)
    ledger.add([0, 1], 0.0)
    with pytest.raises(ValueError, match="shorter"):
        ledger.take()


def test_rows_of_batches_whose_loss_is_not_finite() -> None:
    batch = make_batch(global_batch_size=8, max_per_device_batch_size=2, world_size=1, seq_len=8)
    ledger = RowLedger(batch, 0)
    for rows, loss in (([0, 1], 0.5), ([2, 3], math.nan), ([4, 5], math.inf), ([6, 7], 0.0)):
        ledger.add(rows, loss)
    assert ledger.not_finite() == [2, 3, 4, 5]
    ledger.take()
    assert ledger.not_finite() == []
