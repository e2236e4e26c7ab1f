"""Health check of a node before training: GPUs, disk and clock, in about a second."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gemfit.core.gpu_count import count_gpus
from gemfit.core.nvidia_smi import (
    NvidiaSmiFault,
    NvidiaSmiUnavailable,
    Row,
    is_broken,
    number,
    query_gpus,
    selected_rows,
)
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan

MIN_FREE_GPU_SHARE = 0.9
"""Less is free while a process of an earlier job still runs."""
MIN_FREE_DISK_BYTES = 1 << 30
MAX_CLOCK_SKEW_SECONDS = 60
NVIDIA_SMI_SECONDS = 60
MEMORY_FIELDS = ("index", "uuid", "mig.mode.current", "memory.used", "memory.total")


def find_faults(run: RunDir, plan: Plan) -> list[str]:
    """Faults that keep this node from training; empty for a healthy node."""
    return [*_gpu_faults(plan), *_disk_faults(run)]


def _gpu_faults(plan: Plan) -> Iterator[str]:
    if plan.topology.device != "cuda":
        return
    try:
        rows = query_gpus(MEMORY_FIELDS, timeout_seconds=NVIDIA_SMI_SECONDS)
    except NvidiaSmiFault as fault:
        yield str(fault)
        return
    except NvidiaSmiUnavailable:
        rows = []  # a container may lack the tool
    seen, wanted = count_gpus(), plan.topology.ranks_per_node
    if seen < wanted:
        yield f"{wanted} GPUs are needed and {seen} are visible"
    yield from memory_faults(selected_rows(rows, os.environ.get("CUDA_VISIBLE_DEVICES")))


def memory_faults(rows: Sequence[Row]) -> Iterator[str]:
    """GPUs that are out of order or have used memory; values that the driver does not give are no fault.

    The memory of a GPU that is divided into MIG devices says nothing about those of this job.
    """
    for row in rows:
        used, total = number(row["memory.used"]), number(row["memory.total"])
        if is_broken(row):
            yield f"GPU {row['index']} is out of order: {', '.join(row.values())}"
        elif used is None or total is None or row["mig.mode.current"] == "Enabled":
            continue
        elif used > (1 - MIN_FREE_GPU_SHARE) * total:
            yield f"GPU {row['index']} has {used:.0f} of {total:.0f} MiB in use before training begins"


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
