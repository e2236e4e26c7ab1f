"""Energy that an attempt takes, as far as counters of the machine tell: RAPL for processors, NVML for boards.

Costs one read of a small file for each processor at every step, and one small exchange at the end. RAPL is
often for root alone; what cannot be read is not made up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml
import torch
from transformers import TrainerCallback

from gemfit.core.jsonl_log import append_record
from gemfit.schemas.metrics import EnergyRecord
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.telemetry.hardware import board

if TYPE_CHECKING:
    from gemfit.train.loop.trainer import PackedTrainer

POWERCAP = Path("/sys/class/powercap")
COUNTER, RANGE = "energy_uj", "max_energy_range_uj"


class RankEnergy(NamedTuple):
    """What one rank has counted, in joules."""

    counts_host: bool
    """One rank counts for its host."""
    cpu: float | None
    gpu_id: str
    gpu: float | None


class Packages:
    """The processors of this machine; they count up and begin again at 0, a few times an hour."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self.joules: float | None = 0.0
        self._folders = sorted(path.parent for path in root.glob("intel-rapl:*/name") if _is_package(path))
        self._before = self._read()

    def add(self) -> None:
        """Count what was taken since the last call; ``joules`` is ``None`` once a counter cannot be read."""
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
        """Counter and its range of each processor, in microjoules."""
        try:
            found = [tuple(int((f / n).read_text()) for n in (COUNTER, RANGE)) for f in self._folders]
        except OSError:
            return None
        return [(count, limit) for count, limit in found] or None


class EnergyCallback(TrainerCallback):
    """Writes an ``EnergyRecord`` when training ends, also where it is stopped."""

    def __init__(self, trainer: PackedTrainer) -> None:
        self.trainer = trainer
        self.packages: Packages | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.packages = Packages() if args.local_process_index == 0 else None
        self.gpu_id, self.gpu_began = board_joules(args.device)
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.packages is not None:
            self.packages.add()

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
        if self.packages is not None:
            self.packages.add()
        _, now = board_joules(device)
        gpu = None if now is None or self.gpu_began is None else now - self.gpu_began
        cpu = self.packages.joules if self.packages is not None else None
        return RankEnergy(self.packages is not None, cpu, self.gpu_id, gpu)


def total(ranks: Iterable[RankEnergy]) -> tuple[float | None, float | None]:
    """Joules of all processors and of all boards; a board that ranks share counts once."""
    ranks = list(ranks)
    boards = {one.gpu_id: one.gpu for one in ranks if one.gpu_id}
    return _sum([one.cpu for one in ranks if one.counts_host]), _sum(list(boards.values()))


def board_joules(device: torch.device) -> tuple[str, float | None]:
    """UUID of a GPU, and what its board has taken since its driver was loaded; ``None``: not counted."""
    if device.type != "cuda":
        return "", None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    with suppress(pynvml.NVMLError):
        return uuid, float(pynvml.nvmlDeviceGetTotalEnergyConsumption(board(uuid))) / 1000
    return uuid, None


def _sum(joules: list[float | None]) -> float | None:
    known = [value for value in joules if value is not None]
    return sum(known) if known and len(known) == len(joules) else None


def _is_package(name: Path) -> bool:
    with suppress(OSError):
        return name.read_text().startswith("package")
    return False
