"""The arithmetic of one optimizer step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.batch import Batch, DataCursor, make_batch, nearest_without_idle, sizes_without_idle
from gemfit.errors import UserError

sizes = st.integers(1, 300)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, int]:
    effective = draw(sizes)
    limit = draw(st.integers(1, 16))
    world = draw(st.integers(1, effective))
    return make_batch(effective=effective, per_device_max=limit, world_size=world, seq_len=8), limit


@given(made=batches())
def test_every_row_has_one_slot_and_only_the_last_micro_step_has_idle_ones(made: tuple[Batch, int]) -> None:
    batch, limit = made
    taken = [slot for rank in range(batch.world_size) for micro in batch.rank_slots(rank) for slot in micro]
    assert sorted(taken) == list(range(batch.slots))
    assert 1 <= batch.per_device <= limit
    assert batch.slots == batch.per_device * batch.accumulation * batch.world_size
    assert 0 <= batch.idle < batch.per_device * batch.world_size


@given(made=batches())
def test_no_other_shape_has_fewer_idle_slots_or_as_few_with_fewer_micro_steps(
    made: tuple[Batch, int],
) -> None:
    batch, limit = made
    for per_device in range(1, limit + 1):
        micro_steps = -(-batch.effective // (per_device * batch.world_size))
        idle = per_device * micro_steps * batch.world_size - batch.effective
        assert (batch.idle, batch.accumulation) <= (idle, micro_steps)


@given(made=batches())
def test_ranks_take_the_same_number_of_micro_steps_of_the_same_shape(made: tuple[Batch, int]) -> None:
    batch, _ = made
    for rank in range(batch.world_size):
        micro_steps = list(batch.rank_slots(rank))
        assert len(micro_steps) == batch.accumulation
        assert {len(slots) for slots in micro_steps} == {batch.per_device}


@given(effective=sizes, extra=st.integers(1, 50))
def test_more_ranks_than_rows_are_refused_with_what_works(effective: int, extra: int) -> None:
    with pytest.raises(UserError, match=f"at most {effective} ranks have work, not {effective + extra}"):
        make_batch(effective=effective, per_device_max=4, world_size=effective + extra, seq_len=8)


@given(effective=sizes)
def test_sizes_without_idle_slots_are_the_ones_that_have_none(effective: int) -> None:
    found = sizes_without_idle(effective)
    for world in range(1, effective + 1):
        batch = make_batch(effective=effective, per_device_max=4, world_size=world, seq_len=8)
        assert (batch.idle == 0) == (world in found)


@pytest.mark.parametrize(("world", "nearest"), [(24, [16, 32]), (63, [32, 64]), (3, [2, 4]), (8, [4, 16])])
def test_the_nearest_sizes_are_one_below_and_one_above(world: int, nearest: list[int]) -> None:
    assert nearest_without_idle(world, 64) == nearest


def test_the_example_of_three_nodes_of_eight() -> None:
    batch = make_batch(effective=64, per_device_max=4, world_size=24, seq_len=1024)
    assert (batch.per_device, batch.accumulation, batch.slots, batch.idle) == (3, 1, 72, 8)
    assert batch.tokens_per_step == 65536
    assert batch.idle_share == pytest.approx(1 / 9)


@given(row=st.integers(0, 10**9), rows=st.integers(1, 10**6))
def test_a_cursor_is_one_integer_that_knows_its_epoch(row: int, rows: int) -> None:
    cursor = DataCursor(row=row, rows_per_epoch=rows)
    assert cursor.epoch * rows + cursor.row_in_epoch == row
    assert 0 <= cursor.row_in_epoch < rows
