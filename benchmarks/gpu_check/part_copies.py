"""Copies of a checkpoint to host memory, pageable and pinned; writing; and AdamW on host threads."""

from __future__ import annotations

import time
from typing import Any

import torch
from common import Scale, keep
from models import median_seconds, synchronize

from gemfit.core.available_cores import available_cores
from gemfit.train.checkpoint.engine_state import State, write
from gemfit.train.checkpoint.host_copy import HostMemory

GIGA = 1e9


def measure(scale: Scale) -> dict[str, Any]:
    """GB/s of each way to copy, and seconds of an optimizer step in host memory."""
    elements = (4 if scale.dry else 512) * 2**20
    source = torch.ones(elements, device=scale.device)
    found: dict[str, Any] = {"bytes": source.nbytes}
    found["pageable_gb_per_second"] = _rate(scale, source, lambda: source.to("cpu", copy=True))
    if scale.dry:
        found["dry"] = "copies within host memory; there is no pinned memory without a GPU"
    else:
        pinned = torch.empty(elements, pin_memory=True)
        found["pinned_gb_per_second"] = _rate(scale, source, lambda: pinned.copy_(source, non_blocking=True))
    keep(scale, "copies", found)
    return found | _checkpoint(scale) | _host_optimizer(scale)


def _rate(scale: Scale, source: torch.Tensor, copy: Any) -> float:
    return source.nbytes / median_seconds(scale, copy, times=3, warmup=1) / GIGA


def _checkpoint(scale: Scale) -> dict[str, float]:
    """The snapshot and the write of gemfit's own checkpoints, many tensors of usual sizes."""
    side, count = (128, 8) if scale.dry else (4096, 32)
    state: State = {f"model.{n}": torch.ones(side, side, device=scale.device) for n in range(count)}
    size = 4 * count * side * side
    synchronize(scale)
    memory = HostMemory()
    began = time.perf_counter()
    first = memory.copy(state, everything=True)
    first.wait()
    made = time.perf_counter()
    again = memory.copy(state, everything=True)
    submitted = time.perf_counter()
    seconds = again.wait()
    copied = time.perf_counter()
    write(again.state, scale.work / "copied-checkpoint")
    written = time.perf_counter()
    memory.release()
    return {
        "first_snapshot_gb_per_second": size / (made - began) / GIGA,
        "snapshot_gb_per_second": size / seconds / GIGA,
        "snapshot_stall_seconds": submitted - made,
        "write_gb_per_second": size / (written - copied) / GIGA,
    }


def _host_optimizer(scale: Scale) -> dict[str, Any]:
    """AdamW over parameters in host memory (offload): one thread, and all cores."""
    parameter = torch.nn.Parameter(torch.ones((1 if scale.dry else 200) * 2**20))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    seconds = {}
    for threads in (1, available_cores()):
        torch.set_num_threads(threads)
        seconds[threads] = median_seconds(scale, optimizer.step, times=2, warmup=1)
    return {"host_adamw_parameters": parameter.numel(), "host_adamw_seconds_by_threads": seconds}
