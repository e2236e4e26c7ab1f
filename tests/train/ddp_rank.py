"""A rank that sums gradients in several buckets, with the order of sums that a training has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gemfit.train.loop import ddp_buckets

WIDTH = 300
ORDER = (3, 1, 5, 0, 4, 2)
"""In which the layers are used: not that of their definition, which DDP's first buckets have."""


class Layers(torch.nn.Module):
    """Layers of 0.36 MB each, so that a bucket of 1 MB has some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in ORDER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in ORDER:
            x = 3 * torch.tanh(self.layers[number](x))
        return x.square().mean()


def repeat_a_step(rank: int, root: Path, ranks: int) -> None:
    """Write how many elements of a gradient differ when a step is repeated, without and with first passes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=ranks)
    differing = [_differing(rank, prepared=prepared) for prepared in (False, True)]
    if rank == 0:
        (root / "differing").write_text(" ".join(map(str, differing)))
    dist.destroy_process_group()


def _differing(rank: int, *, prepared: bool) -> int:
    torch.manual_seed(0)
    model = DistributedDataParallel(Layers(), gradient_as_bucket_view=True, bucket_cap_mb=1)
    row = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(rank))
    if prepared:
        _allocate_gradients(model, row)
    first, second = (_gradients(model, row) for _ in range(2))
    return sum(int((one != other).sum()) for one, other in zip(first, second, strict=True))


def _allocate_gradients(model: Any, row: torch.Tensor) -> None:
    trainer: Any = SimpleNamespace(
        model_wrapped=model,
        compute_loss=lambda model, batch: model(batch["x"]),
        accelerator=SimpleNamespace(backward=lambda loss: loss.backward()),
        take_step_loss=lambda: None,
    )
    with mock.patch.object(ddp_buckets, "probe_batch", return_value={"x": row}):
        ddp_buckets.allocate_gradients(trainer)


def _gradients(model: Any, row: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model(row).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]
