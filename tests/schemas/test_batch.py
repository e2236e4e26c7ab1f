"""The arithmetic of one optimizer step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.errors import UserError
from gemfit.schemas.batch import Batch, DataCursor, make_batch, nearest_without_idle, sizes_without_idle

sizes = st.integers(1, 300)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, int]:
    global_batch_size = draw(sizes)
    limit = draw(st.integers(1, 16))
    data_ranks, degree = draw(st.integers(1, global_batch_size)), draw(st.sampled_from([1, 2, 4, 8]))
    return make_batch(
        global_batch_size=global_batch_size,
        max_per_device_batch_size=limit,
        world_size=data_ranks * degree,
        seq_len=8,
        sequence_parallel=degree,
    ), limit


@given(made=batches())
def test_every_row_has_one_slot_and_only_the_last_batch_has_idle_ones(made: tuple[Batch, int]) -> None:
    batch, limit = made
    first_of_groups = range(0, batch.world_size, batch.sequence_parallel)
    taken = [slot for rank in first_of_groups for slots in batch.rank_slots(rank) for slot in slots]
    assert sorted(taken) == list(range(batch.slots))
    assert 1 <= batch.per_device_batch_size <= limit
    assert batch.slots == batch.per_device_batch_size * batch.gradient_accumulation_steps * batch.data_ranks
    assert 0 <= batch.idle < batch.per_device_batch_size * batch.data_ranks


@given(made=batches())
def test_ranks_that_share_their_rows_are_neighbours_with_the_same_slots(made: tuple[Batch, int]) -> None:
    batch, _ = made
    for rank in range(batch.world_size):
        first = rank - rank % batch.sequence_parallel
        assert list(batch.rank_slots(rank)) == list(batch.rank_slots(first))


@given(made=batches())
def test_no_other_shape_has_fewer_idle_slots_or_as_few_with_fewer_accumulation_steps(
    made: tuple[Batch, int],
) -> None:
    batch, limit = made
    for per_device_batch_size in range(1, limit + 1):
        accumulation_steps = -(-batch.global_batch_size // (per_device_batch_size * batch.data_ranks))
        idle = per_device_batch_size * accumulation_steps * batch.data_ranks - batch.global_batch_size
        assert (batch.idle, batch.gradient_accumulation_steps) <= (idle, accumulation_steps)


@given(made=batches())
def test_ranks_take_the_same_number_of_batches_of_the_same_shape(made: tuple[Batch, int]) -> None:
    batch, _ = made
    for rank in range(batch.world_size):
        batches_of_rank = list(batch.rank_slots(rank))
        assert len(batches_of_rank) == batch.gradient_accumulation_steps
        assert {len(slots) for slots in batches_of_rank} == {batch.per_device_batch_size}


@given(global_batch_size=sizes, extra=st.integers(1, 50))
def test_more_ranks_than_rows_are_refused_with_what_works(global_batch_size: int, extra: int) -> None:
    with pytest.raises(
        UserError, match=f"at most {global_batch_size} ranks have work, not {global_batch_size + extra}"
    ):
        make_batch(
            global_batch_size=global_batch_size,
            max_per_device_batch_size=4,
            world_size=global_batch_size + extra,
            seq_len=8,
        )


@given(global_batch_size=st.integers(1, 40), ranks=st.integers(2, 128))
def test_the_refusal_of_too_many_ranks_names_a_degree_that_works(global_batch_size: int, ranks: int) -> None:
    sizes_of = {"global_batch_size": global_batch_size, "max_per_device_batch_size": 4, "world_size": ranks}
    if ranks <= global_batch_size:
        return
    with pytest.raises(UserError, match=r"sequence_parallel=\d+ lets") as refused:
        make_batch(**sizes_of, seq_len=2520)
    degree = int(str(refused.value).partition("sequence_parallel=")[2].partition(" ")[0])
    batch = make_batch(**sizes_of, seq_len=2520 * degree, sequence_parallel=degree)
    assert (batch.world_size, batch.data_ranks) == (ranks, ranks // degree)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"world_size": 6}, r"sequence_parallel is 4, and 6 ranks do not .* use a multiple of 4 ranks"),
        (
            {"seq_len": 1022},
            r"seq_len is 1022, .* cuts each row into 4 equal slices; set data.seq_len to 1024",
        ),
        (
            {"world_size": 512},
            r"at most 256 ranks in groups of 4 have work, not 512; .* 4, 8, .*, 256\. .*=8 lets",
        ),
    ],
)
def test_what_does_not_divide_is_refused_with_what_does(changed: dict[str, int], message: str) -> None:
    fits = {"world_size": 8, "seq_len": 1024}
    with pytest.raises(UserError, match=message):
        make_batch(global_batch_size=64, max_per_device_batch_size=4, sequence_parallel=4, **(fits | changed))


@given(global_batch_size=sizes)
def test_sizes_without_idle_slots_are_the_ones_that_have_none(global_batch_size: int) -> None:
    found = sizes_without_idle(global_batch_size)
    for world in range(1, global_batch_size + 1):
        batch = make_batch(
            global_batch_size=global_batch_size, max_per_device_batch_size=4, world_size=world, seq_len=8
        )
        assert (batch.idle == 0) == (world in found)


@pytest.mark.parametrize(("world", "nearest"), [(24, [16, 32]), (63, [32, 64]), (3, [2, 4]), (8, [4, 16])])
def test_the_nearest_sizes_are_one_below_and_one_above(world: int, nearest: list[int]) -> None:
    assert nearest_without_idle(world, 64) == nearest


def test_the_example_of_three_nodes_of_eight() -> None:
    batch = make_batch(global_batch_size=64, max_per_device_batch_size=4, world_size=24, seq_len=1024)
    assert (batch.per_device_batch_size, batch.gradient_accumulation_steps, batch.slots, batch.idle) == (
        3,
        1,
        72,
        8,
    )
    assert batch.tokens_per_step == 65536
    assert batch.idle_share == pytest.approx(1 / 9)


@given(row=st.integers(0, 10**9), rows=st.integers(1, 10**6))
def test_a_cursor_is_one_integer_that_knows_its_epoch(row: int, rows: int) -> None:
    cursor = DataCursor(row=row, rows_per_epoch=rows)
    assert cursor.epoch * rows + cursor.row_in_epoch == row
    assert 0 <= cursor.row_in_epoch < rows
