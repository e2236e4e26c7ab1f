"""Peak memory of each rank (host and GPU), from the first step of an attempt on.

Costs two reads of a file in /proc and one small collective at the end of the training.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from gemfit.core.jsonl_log import append_record
from gemfit.schemas.metrics import MemoryRecord, RankMemory
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.trainer_view import TrainerView

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Resets the kernel's peak of this process to its present use."""


class PeakMemoryCallback(TrainerCallback):
    """Writes a ``MemoryRecord`` when training ends, also where it is stopped."""

    def __init__(self, trainer: TrainerView) -> None:
        self.trainer = trainer
        self.held = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with suppress(OSError):  # without permission the peak is that of the process's whole life
            CLEAR_REFS.write_text(RESET_PEAK)
        self.held = resident()
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ranks = on_every_rank(lambda: rank_memory(args.device, self.held))
        if rank() == 0:
            on_gpu = args.device.type == "cuda"
            record = MemoryRecord(
                attempt=self.trainer.attempt,
                step=state.global_step,
                ranks=tuple(ranks),
                gpu_name=torch.cuda.get_device_name(args.device) if on_gpu else None,
                time=time.time(),
            )
            append_record(self.trainer.run.metrics_file, record)


def rank_memory(device: torch.device, held: int) -> RankMemory:
    """Peaks of this process; ``held`` is its resident memory before training."""
    if device.type != "cuda":
        return RankMemory(held=held, host=resident("VmHWM"))
    return RankMemory(
        held=held,
        host=resident("VmHWM"),
        gpu=torch.cuda.max_memory_allocated(device),
        gpu_reserved=torch.cuda.max_memory_reserved(device),
    )


def resident(name: str = "VmRSS") -> int:
    """A value of /proc/self/status in bytes: ``VmRSS`` (resident memory) or ``VmHWM`` (its peak)."""
    found = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024
