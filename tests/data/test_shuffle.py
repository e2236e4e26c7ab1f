"""Shuffle: any number of ranks gets the same global batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.pack.shuffle import (
    EMPTY,
    MAX_SORTED_ROWS,
    epoch_order,
    rank_rows,
    rows_at,
    rows_digest,
    rows_of_step,
)
from gemfit.schemas.batch import make_batch


@given(rows=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 9))
def test_an_epoch_takes_every_row_once(rows: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(seed, epoch, rows)) == list(range(rows))


@pytest.mark.parametrize("rows", [MAX_SORTED_ROWS, MAX_SORTED_ROWS + 1, 65_536, 65_537, 262_145])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_of_many_rows_takes_every_row_once(rows: int, epoch: int) -> None:
    order = epoch_order(3, epoch, rows)
    assert (np.sort(order) == np.arange(rows)).all()
    places = np.array([0, 7, rows - 1])
    assert (rows_at(places, seed=3, epoch=epoch, rows=rows) == order[places]).all()


@pytest.mark.parametrize("rows", [MAX_SORTED_ROWS, 100_000])
def test_rows_do_not_stay_near_their_position_or_their_neighbours(rows: int) -> None:
    order, places = epoch_order(5, 0, rows), np.arange(rows)
    # Of random permutations four in a million have a correlation of 4.6 standard deviations.
    assert abs(np.corrcoef(order, places)[0, 1]) < 4.6 / rows**0.5
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 4.6 / rows**0.5
    assert abs(np.corrcoef(order % 2, places % 2)[0, 1]) < 4.6 / rows**0.5
    assert abs(np.corrcoef(order, epoch_order(5, 1, rows))[0, 1]) < 4.6 / rows**0.5
    # A row in its own place, or behind the one that was before it: about one each, Poisson.
    assert np.count_nonzero(order == places) < 8
    assert np.count_nonzero(np.diff(order) == 1) < 8


def test_the_order_of_many_rows_never_changes() -> None:
    assert epoch_order(42, 0, 100_000)[:8].tolist() == [
        95758,
        86911,
        32412,
        64191,
        13658,
        22107,
        21481,
        75498,
    ]
    assert epoch_order(42, 0, 100_000)[-1] == 4911


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {epoch_order(seed, epoch, 50).tobytes() for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_order_is_the_one_that_older_runs_used() -> None:
    assert epoch_order(42, 0, 8).tolist() == [4, 1, 3, 6, 0, 7, 2, 5]
    assert epoch_order(42, 1, 8).tolist() == [1, 2, 5, 3, 6, 0, 4, 7]


def test_an_order_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(1, 0, 5)[0] = 3


@given(
    rows=st.integers(1, 60),
    global_batch_size=st.integers(1, 40),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_the_steps_of_a_run_are_its_epochs_in_a_row(
    rows: int, global_batch_size: int, epochs: int, seed: int
) -> None:
    total = rows * epochs
    steps = -(-total // global_batch_size)
    taken = np.concatenate(
        [
            rows_of_step(
                s, global_batch_size=global_batch_size, rows_per_epoch=rows, total_rows=total, seed=seed
            )
            for s in range(steps)
        ]
    )
    wanted = np.concatenate([epoch_order(seed, epoch, rows) for epoch in range(epochs)])
    assert taken[:total].tolist() == wanted.tolist()
    assert (taken[total:] == EMPTY).all()


@given(
    global_batch_size=st.integers(1, 70),
    per_device_batch_size=st.integers(1, 5),
    ranks=st.integers(1, 70),
    step=st.integers(0, 30),
    rows=st.integers(1, 90),
)
def test_any_number_of_ranks_gets_the_same_global_batch(
    global_batch_size: int, per_device_batch_size: int, ranks: int, step: int, rows: int
) -> None:
    ranks = min(ranks, global_batch_size)
    batch = make_batch(
        global_batch_size=global_batch_size,
        max_per_device_batch_size=per_device_batch_size,
        world_size=ranks,
        seq_len=64,
    )
    wanted = rows_of_step(
        step, global_batch_size=global_batch_size, rows_per_epoch=rows, total_rows=10**9, seed=3
    )
    slots = np.full(batch.slots, -7)
    for rank in range(ranks):
        shares = rank_rows(wanted, batch, rank)
        assert len(shares) == batch.gradient_accumulation_steps
        for number, share in enumerate(shares):
            start = (number * ranks + rank) * batch.per_device_batch_size
            assert share.shape == (batch.per_device_batch_size,)
            slots[start : start + batch.per_device_batch_size] = share
    assert slots[:global_batch_size].tolist() == wanted.tolist()
    assert (slots[global_batch_size:] == EMPTY).all()


def test_a_digest_depends_on_rows_and_positions() -> None:
    rows = np.array([3, 1, 2])
    assert rows_digest(rows) == rows_digest(rows.astype(np.int32))
    assert len({rows_digest(rows), rows_digest(rows[::-1]), rows_digest(rows[:2])}) == 3
    assert len(rows_digest(rows)) == 32
