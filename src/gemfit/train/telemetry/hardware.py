"""Hardware record of an attempt: hosts, CPUs, GPUs, library versions and the attention that was taken.

Costs one small collective at the start of the training.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pynvml
import torch
from transformers import TrainerCallback

from gemfit import __version__
from gemfit.core.jsonl_log import append_record
from gemfit.schemas.metrics import Gpu, HardwareRecord, Host
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.trainer_view import TrainerView

CPUINFO = Path("/proc/cpuinfo")
LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed")


class RankHardware(NamedTuple):
    """Host and GPU of one rank."""

    host: str
    """Name of the machine; it identifies hosts and is not recorded."""
    cpu: str
    cores: int
    memory: int
    gpu: Gpu | None
    gpu_id: str


class HardwareCallback(TrainerCallback):
    """Writes a ``HardwareRecord`` when training begins."""

    def __init__(self, trainer: TrainerView) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ranks = on_every_rank(lambda: rank_hardware(args.device))
        if rank() != 0:
            return
        record = HardwareRecord(
            attempt=self.trainer.attempt,
            step=state.global_step,
            hosts=hosts(ranks),
            versions=versions(args.device),
            attention=self.trainer.plan.recipe.model.attention,
            attention_because=self.trainer.plan.attention_because,
            time=time.time(),
        )
        append_record(self.trainer.run.metrics_file, record)


def rank_hardware(device: torch.device) -> RankHardware:
    """Host and GPU of this process."""
    gpu, gpu_id = _gpu(device) if device.type == "cuda" else (None, "")
    return RankHardware(
        host=platform.node(),
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        gpu=gpu,
        gpu_id=gpu_id,
    )


def hosts(ranks: Iterable[RankHardware]) -> tuple[Host, ...]:
    """The machines of all ranks, in the order of their first rank; a GPU that ranks share counts once."""
    by_host: dict[str, list[RankHardware]] = {}
    for one in ranks:
        by_host.setdefault(one.host, []).append(one)
    return tuple(
        Host(
            ranks=len(group),
            cpu=group[0].cpu,
            cores=group[0].cores,
            memory=group[0].memory,
            gpus=tuple({one.gpu_id: one.gpu for one in group if one.gpu is not None}.values()),
        )
        for group in by_host.values()
    )


def versions(device: torch.device) -> dict[str, str]:
    """Versions of gemfit, Python and installed libraries; of CUDA and its driver on a GPU."""
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
    """NVML handle of the GPU with this UUID; ``NVMLError`` without NVML or such a GPU."""
    pynvml.nvmlInit()
    # By UUID: NVML numbers all GPUs of the machine, torch only the visible ones.
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


def _cpu_model() -> str:
    if CPUINFO.is_file():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
