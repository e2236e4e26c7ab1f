"""The most memory that the ranks of an attempt hold, from their first step on.

Costs two reads of a file in /proc and one small exchange between ranks at the end of the training.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from gemfit.core.jsonl_log import append_record
from gemfit.schemas.metrics import MemoryRecord, RankMemory
from gemfit.train.collective import on_every_rank, rank

if TYPE_CHECKING:
    from gemfit.train.loop.trainer import PackedTrainer

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
"""Sets the kernel's peak of this process back to what it holds now."""


class PeakMemory(TrainerCallback):
    """Writes a ``MemoryRecord`` when training ends, also where it is stopped."""

    def __init__(self, trainer: PackedTrainer) -> None:
        self.trainer = trainer
        self.held = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with suppress(OSError):  # where it is forbidden, the peak is that of the process's whole life
            FORGET.write_text(FORGET_PEAK)
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
    """Peaks of this process; ``held`` is what it held before."""
    if device.type != "cuda":
        return RankMemory(held=held, host=resident("VmHWM"))
    return RankMemory(
        held=held,
        host=resident("VmHWM"),
        gpu=torch.cuda.max_memory_allocated(device),
        gpu_reserved=torch.cuda.max_memory_reserved(device),
    )


def resident(name: str = "VmRSS") -> int:
    """A line of this process's status in bytes: what it holds, or ``VmHWM``, the most that it has held."""
    found = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024
