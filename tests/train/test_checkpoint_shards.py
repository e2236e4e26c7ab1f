"""Boxes cover a flat range exactly; saving and loading by boxes moves every element to its place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemfit.train.checkpoint import engine_state
from gemfit.train.checkpoint.dcp_planner import FlatShard, boxes
from gemfit.train.checkpoint.engine_state import read, write
from gemfit.train.checkpoint.host_copy import HostMemory

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    shape = draw(SHAPES)
    start = draw(st.integers(0, math.prod(shape)))
    return shape, start, draw(st.integers(start, math.prod(shape)))


@given(case=ranges())
def test_boxes_cover_the_range_once_and_in_order(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, stop = case
    whole = torch.arange(math.prod(shape)).view(shape)
    elements: list[int] = []
    for box in boxes(shape, start, stop):
        block = whole[tuple(slice(o, o + n) for o, n in zip(box.offsets, box.sizes, strict=True))]
        assert block.numel() == box.numel
        assert block.flatten()[0] == box.start
        elements += block.flatten().tolist()
    assert elements == list(range(start, stop))


@given(case=ranges())
def test_a_range_of_a_matrix_is_at_most_three_boxes(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, stop = case
    flat_shape = (shape[0], math.prod(shape[1:]))
    assert len(list(boxes(flat_shape, start, stop))) <= 3


def test_shards_and_whole_tensors_read_each_other(tmp_path: Path) -> None:
    shape = torch.Size((7, 5))
    values = torch.randn(35)
    write({"first": FlatShard(values, 0, shape), "other": values.view(shape)}, tmp_path)
    whole, part = torch.zeros(shape), torch.zeros(18)
    read({"first": whole, "other": FlatShard(part, 9, shape)}, tmp_path)
    assert torch.equal(whole.flatten(), values)
    assert torch.equal(part, values[9:27])


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), ranks=st.integers(1, 7))
def test_a_replica_is_cut_so_that_the_ranks_write_each_element_once(shape: list[int], ranks: int) -> None:
    whole = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_state, "SMALL", 0)
        shares = [engine_state.rank_share({"w": whole}, rank, ranks)["w"] for rank in range(ranks)]
    shards = [shard for shard in shares if isinstance(shard, FlatShard)]
    assert len(shards) == ranks
    assert torch.cat([shard.flat for shard in shards]).tolist() == whole.flatten().tolist()
    assert [shard.start for shard in shards] == [int(p.flat[0]) if len(p.flat) else p.start for p in shards]
    assert max(len(p.flat) for p in shards) - min(len(p.flat) for p in shards) <= 1


@given(numel=st.integers(0, 40), replicas=st.integers(1, 5), small=st.booleans())
def test_copies_of_a_shard_write_each_element_once(numel: int, replicas: int, small: bool) -> None:
    shard = FlatShard(torch.arange(7, 7 + numel), 7, torch.Size([100]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_state, "SMALL", 41 if small else 0)
        shares = [engine_state.share_of_replica(shard, replica, replicas) for replica in range(replicas)]
    assert torch.cat([share.flat for share in shares]).tolist() == shard.flat.tolist()
    assert all(share.start == share.flat[0] for share in shares if len(share.flat))


@pytest.mark.parametrize("copied", [True, False])
def test_a_copied_share_does_not_change_with_the_engine(copied: bool) -> None:
    small, shard = torch.zeros(3), FlatShard(torch.zeros(4), 2, torch.Size([8]))
    share = HostMemory().copy({"small": small, "shard": shard}, everything=copied).state
    small += 1
    shard.flat.add_(1)
    values = [part.flat if isinstance(part, FlatShard) else part for part in share.values()]
    assert [bool(value.any()) for value in values] == [not copied, not copied]
