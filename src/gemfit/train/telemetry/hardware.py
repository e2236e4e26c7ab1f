"""What an attempt runs on: machines, processors, GPUs and versions, gathered once over the ranks.

Costs one small exchange between ranks at the start of the training.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml
import torch
from transformers import TrainerCallback

from gemfit import __version__
from gemfit.core.jsonl_log import append_record
from gemfit.schemas.metrics import Gpu, HardwareRecord, Host
from gemfit.train.collective import on_every_rank, rank

if TYPE_CHECKING:
    from gemfit.train.loop.trainer import PackedTrainer

CPUINFO = Path("/proc/cpuinfo")
LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed")


class RankPlace(NamedTuple):
    """Where one rank runs."""

    host: str
    """Name of the machine, which tells machines apart and is not recorded."""
    cpu: str
    cores: int
    memory: int
    gpu: Gpu | None
    gpu_id: str


class HardwareCallback(TrainerCallback):
    """Writes a ``HardwareRecord`` when training begins."""

    def __init__(self, trainer: PackedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        places = on_every_rank(lambda: rank_place(args.device))
        if rank() != 0:
            return
        record = HardwareRecord(
            attempt=self.trainer.attempt,
            step=state.global_step,
            hosts=hosts(places),
            versions=versions(args.device),
            time=time.time(),
        )
        append_record(self.trainer.run.metrics_file, record)


def rank_place(device: torch.device) -> RankPlace:
    """The machine and the GPU of this process."""
    gpu, gpu_id = _gpu(device) if device.type == "cuda" else (None, "")
    return RankPlace(
        host=platform.node(),
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        gpu=gpu,
        gpu_id=gpu_id,
    )


def hosts(places: Iterable[RankPlace]) -> tuple[Host, ...]:
    """The machines of all ranks, in the order of their first rank; a GPU that ranks share counts once."""
    by_host: dict[str, list[RankPlace]] = {}
    for place in places:
        by_host.setdefault(place.host, []).append(place)
    return tuple(
        Host(
            ranks=len(group),
            cpu=group[0].cpu,
            cores=group[0].cores,
            memory=group[0].memory,
            gpus=tuple({place.gpu_id: place.gpu for place in group if place.gpu is not None}.values()),
        )
        for group in by_host.values()
    )


def versions(device: torch.device) -> dict[str, str]:
    """Of gemfit, Python and the libraries that are there; of CUDA and its driver on a GPU."""
    found = {"gemfit": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    if device.type == "cuda":
        found["CUDA"] = torch.version.cuda or "none"
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            found["driver"] = str(pynvml.nvmlSystemGetDriverVersion())
    return found


def _gpu(device: torch.device) -> tuple[Gpu, str]:
    properties = torch.cuda.get_device_properties(device)
    identity = str(properties.uuid)
    return (
        Gpu(
            name=properties.name,
            memory=properties.total_memory,
            power_limit_watts=board_power_limit(identity),
        ),
        identity,
    )


def board_power_limit(uuid: str) -> float | None:
    """The power limit in force for the GPU with this UUID, in watts; ``None`` where NVML does not say."""
    with suppress(pynvml.NVMLError):
        return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(board(uuid))) / 1000
    return None


def board(uuid: str) -> Any:
    """NVML's handle of the GPU with this UUID; ``NVMLError`` where there is no NVML, or no such GPU."""
    pynvml.nvmlInit()
    # By UUID: NVML counts all boards of the machine, and torch those that are visible to it.
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


def _cpu_model() -> str:
    if CPUINFO.is_file():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
