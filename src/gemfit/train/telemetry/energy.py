"""Energy of an attempt, from hardware counters: RAPL for CPUs, NVML for GPUs.

Costs one read of a small file for each CPU at every step, and one small collective at the end. RAPL is often
readable by root only; energy that cannot be read is recorded as ``None``, never estimated.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pynvml
import torch
from transformers import TrainerCallback

from gemfit.core.jsonl_log import append_record
from gemfit.schemas.metrics import EnergyRecord
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.telemetry.hardware import board
from gemfit.train.trainer_view import TrainerView

POWERCAP = Path("/sys/class/powercap")
COUNTER, RANGE = "energy_uj", "max_energy_range_uj"


class RankEnergy(NamedTuple):
    """Energy counted by one rank, in joules."""

    counts_host: bool
    """One rank counts for its host."""
    cpu: float | None
    gpu_id: str
    gpu: float | None


class RaplCounters:
    """RAPL energy counters of the CPU packages of this machine; they wrap around a few times per hour."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self.joules: float | None = 0.0
        self._folders = sorted(path.parent for path in root.glob("intel-rapl:*/name") if _is_package(path))
        self._before = self._read()

    def add(self) -> None:
        """Add the energy since the last call; ``joules`` becomes ``None`` if a counter cannot be read."""
        now = self._read()
        if self.joules is None or now is None or self._before is None:
            self.joules = None
            return
        self.joules += sum(
            (after - before if after >= before else after + limit - before) / 1e6
            for (before, _), (after, limit) in zip(self._before, now, strict=True)
        )
        self._before = now

    def _read(self) -> list[tuple[int, int]] | None:
        """Counter and range of each CPU package, in microjoules."""
        try:
            found = [tuple(int((f / n).read_text()) for n in (COUNTER, RANGE)) for f in self._folders]
        except OSError:
            return None
        return [(count, limit) for count, limit in found] or None


class EnergyCallback(TrainerCallback):
    """Writes an ``EnergyRecord`` when training ends, also where it is stopped."""

    def __init__(self, trainer: TrainerView) -> None:
        self.trainer = trainer
        self.counters: RaplCounters | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.counters = RaplCounters() if args.local_process_index == 0 else None
        self.gpu_id, self.gpu_began = board_joules(args.device)
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.counters is not None:
            self.counters.add()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ranks = on_every_rank(lambda: self._rank_energy(args.device))
        if rank() != 0:
            return
        cpu, gpu = total(ranks)
        record = EnergyRecord(
            attempt=self.trainer.attempt,
            step=state.global_step,
            cpu_joules=cpu,
            gpu_joules=gpu,
            seconds=time.perf_counter() - self.began,
            time=time.time(),
        )
        append_record(self.trainer.run.metrics_file, record)

    def _rank_energy(self, device: torch.device) -> RankEnergy:
        if self.counters is not None:
            self.counters.add()
        _, now = board_joules(device)
        gpu = None if now is None or self.gpu_began is None else now - self.gpu_began
        cpu = self.counters.joules if self.counters is not None else None
        return RankEnergy(self.counters is not None, cpu, self.gpu_id, gpu)


def total(ranks: Iterable[RankEnergy]) -> tuple[float | None, float | None]:
    """Joules of all CPUs and of all GPUs; a GPU shared by ranks counts once."""
    ranks = list(ranks)
    boards = {one.gpu_id: one.gpu for one in ranks if one.gpu_id}
    return _sum([one.cpu for one in ranks if one.counts_host]), _sum(list(boards.values()))


def board_joules(device: torch.device) -> tuple[str, float | None]:
    """UUID of a GPU and the energy of its board since the driver was loaded; ``None`` where not counted."""
    if device.type != "cuda":
        return "", None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    with suppress(pynvml.NVMLError):
        return uuid, float(pynvml.nvmlDeviceGetTotalEnergyConsumption(board(uuid))) / 1000
    return uuid, None


def _sum(joules: list[float | None]) -> float | None:
    counted = [value for value in joules if value is not None]
    return sum(counted) if counted and len(counted) == len(joules) else None


def _is_package(name: Path) -> bool:
    with suppress(OSError):
        return name.read_text().startswith("package")
    return False
