"""A rank that loads a checkpoint in another dtype than it was saved in."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from gemfit.train.checkpoint import engine_state
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.verified_load import load
from gemfit.train.collective import on_every_rank


def load_in_another_dtype(rank: int, root: Path) -> None:
    """One of two ranks: each writes half of a tensor in float32, and loads all of it in bfloat16."""
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=2)
    shape, values = torch.Size((7, 5)), torch.arange(35, dtype=torch.float32)
    half = values[:18] if rank == 0 else values[18:]
    (folder := root / "checkpoint").mkdir(exist_ok=True)
    own = engine_state.write({"weights": FlatShard(half, 18 * rank, shape)}, folder)
    files = [file for of_rank in on_every_rank(lambda: own) for file in of_rank]
    wanted = FlatShard(torch.zeros(35, dtype=torch.bfloat16), 0, shape)
    assert load({"weights": wanted}, folder, files) is None
    assert torch.equal(wanted.flat.float(), values)
    dist.destroy_process_group()
