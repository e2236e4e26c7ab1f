"""The machine: energy and power by NVML, MIG and memory tables of nvidia-smi, doctor, health check."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import torch
from common import Scale, keep

from gemfit.core.available_cores import available_cores
from gemfit.core.gpu_count import count_gpus
from gemfit.core.nvidia_smi import NvidiaSmiUnavailable, query_gpus
from gemfit.train.telemetry.energy import RaplCounters, board_joules
from gemfit.train.telemetry.hardware import board_power_limit, versions
from gemfit_launch.predict.gpu_specs import guess_gpu
from gemfit_launch.slurm.node.health_check import MEMORY_FIELDS, memory_faults

SECONDS = 20


def measure(scale: Scale) -> dict[str, Any]:
    """Readings, and what gemfit concludes of them."""
    device = torch.device(scale.device)
    found: dict[str, Any] = {"cores": available_cores(), "versions": versions(device)}
    found |= {"gpus_counted": count_gpus(), "gpus_by_torch": torch.cuda.device_count()}
    faults = []
    with suppress(NvidiaSmiUnavailable):
        rows = query_gpus(MEMORY_FIELDS, timeout_seconds=SECONDS)
        found |= {"nvidia_smi": list(rows), "memory_faults": list(memory_faults(rows))}
    keep(scale, "machine", found)
    found["energy"] = _energy(scale, device)
    if scale.dry:
        found["dry"] = "energy of the CPUs by RAPL instead of a GPU's by NVML"
    else:
        name = torch.cuda.get_device_name()
        known = guess_gpu(name)
        found |= {"gpu": name, "specification": known.name if known is not None else None}
        found["power_limit_watts"] = board_power_limit(str(torch.cuda.get_device_properties(device).uuid))
        if found["gpus_counted"] != found["gpus_by_torch"]:
            faults.append(f"gemfit counts {count_gpus()} GPUs, torch {torch.cuda.device_count()}")
    found["doctor"] = _doctor()
    return found | {"faults": faults}


def _energy(scale: Scale, device: torch.device) -> dict[str, Any]:
    """Joules and seconds of matrix products."""
    side = 256 if scale.dry else 8192
    dtype = torch.float32 if scale.dry else torch.bfloat16
    a, host = torch.randn(side, side, device=device, dtype=dtype), RaplCounters()
    _, before = board_joules(device)
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < (0.2 if scale.dry else 3.0):
        for _ in range(10):
            a @ a
        products += 10
        if not scale.dry:
            torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    host.add()
    _, after = board_joules(device)
    joules = None if before is None or after is None else after - before
    return {
        "seconds": seconds,
        "gpu_joules": joules,
        "gpu_watts": None if joules is None else joules / seconds,
        "cpu_joules": host.joules,
        "flops_per_second": 2 * side**3 * products / seconds,
    }


def _doctor() -> list[str]:
    """Errors and warnings of `gemfit doctor`; raises where it says nothing readable."""
    argv = [sys.executable, "-m", "gemfit_launch.cli", "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    checks = json.loads(done.stdout)
    told = ("state", "group", "name", "found")
    return [
        " ".join(str(check[key]) for key in told if key in check)
        for check in checks
        if check["state"] != "ok"
    ]
