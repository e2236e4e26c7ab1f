"""DDP sends gradients and nothing else, and adds them up in one order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from gemfit.train.loop.ddp_buckets import send_no_buffers
from train.ddp_rank import repeat_a_step
from train.tiny_gemma import tiny_gemma

RANKS = 3
"""Two would add the same two numbers in any order."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A process group of this process; how many buffers it has sent at a time."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    found: list[int] = []
    monkeypatch.setattr(
        dist, "_broadcast_coalesced", lambda group, tensors, *others: found.append(len(tensors))
    )
    yield found
    dist.destroy_process_group()


def run(model: Any) -> None:
    ids = torch.zeros(1, 8, dtype=torch.int64)
    model(input_ids=ids, position_ids=torch.arange(8)[None])


@pytest.mark.dist
@pytest.mark.slow
def test_sums_of_gradients_have_the_same_order_in_the_first_step_and_later(tmp_path: Path) -> None:
    spawn(repeat_a_step, args=(tmp_path, RANKS), nprocs=RANKS)  # type: ignore[no-untyped-call]
    without, with_passes = map(int, (tmp_path / "differing").read_text().split())
    assert without > 0, "DDP keeps its first order, so this shows nothing"
    assert with_passes == 0


def test_buffers_that_every_rank_has_computed_are_not_sent(sent: list[int]) -> None:
    model = DistributedDataParallel(tiny_gemma("sdpa"))
    sent.clear()
    run(model)
    assert sent == [len(list(model.buffers()))], "torch's own way, or this shows nothing"
    send_no_buffers(model)
    run(model)
    assert len(sent) == 1
