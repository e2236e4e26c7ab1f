"""Health check of a node before training: GPUs, disk and clock, in about a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.topology import count_gpus

MIN_FREE_GPU_SHARE = 0.9
"""Less is free while a process of an earlier job still runs."""
MIN_FREE_DISK_BYTES = 1 << 30
MAX_CLOCK_SKEW_SECONDS = 60
NVIDIA_SMI_SECONDS = 60


def find_faults(run: RunDir, plan: Plan) -> list[str]:
    """Faults that keep this node from training; empty for a healthy node."""
    return [*_gpu_faults(plan), *_disk_faults(run)]


def _gpu_faults(plan: Plan) -> Iterator[str]:
    if plan.topology.device != "cuda":
        return
    seen, wanted = count_gpus(), plan.topology.ranks_per_node
    if seen < wanted:
        yield f"{wanted} GPUs are needed and {seen} are visible"
        return
    if shutil.which("nvidia-smi"):
        yield from memory_faults(_query_memory())


def memory_faults(table: str) -> Iterator[str]:
    """GPUs with used memory, from lines of ``index, used, total`` in MiB."""
    for line in table.splitlines():
        index, used, total = (part.strip() for part in line.split(","))
        if float(used) > (1 - MIN_FREE_GPU_SHARE) * float(total):
            yield f"GPU {index} has {used} of {total} MiB in use before training begins"


def _query_memory() -> str:
    argv = ["nvidia-smi", "--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits"]
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        argv.append(f"--id={chosen}")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=NVIDIA_SMI_SECONDS)
    return done.stdout if done.returncode == 0 else ""


def _disk_faults(run: RunDir) -> Iterator[str]:
    """Write a file in the run folder, and compare the clock of that file system with this node's."""
    probe = run.logs / f".probe-{os.uname().nodename}-{os.getpid()}"
    try:
        probe.write_text("probe")
        skew = probe.stat().st_mtime - time.time()
        probe.unlink()
    except OSError as error:
        yield f"the run folder cannot be written: {error}"
        return
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        yield f"the clock differs from that of the run folder's disk by {skew:.0f} seconds"
    free = shutil.disk_usage(run.root).free
    if free < MIN_FREE_DISK_BYTES:
        yield f"{free >> 20} MiB are free on the disk of the run folder"
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    if not os.access(temporary, os.W_OK):
        yield f"{temporary} cannot be written"
