"""DDP sends gradients and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.nn.parallel import DistributedDataParallel

from gemfit.train.loop.ddp_buckets import send_no_buffers
from train.tiny_gemma import tiny_gemma


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


def test_buffers_that_every_rank_has_computed_are_not_sent(sent: list[int]) -> None:
    model = DistributedDataParallel(tiny_gemma("sdpa"))
    sent.clear()
    run(model)
    assert sent == [len(list(model.buffers()))], "torch's own way, or this shows nothing"
    send_no_buffers(model)
    run(model)
    assert len(sent) == 1
