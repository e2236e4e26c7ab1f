"""Checks of this machine: disk, limits, ports, GPUs, Hub and Slurm; writes one temporary file."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from gemfit.core.gpu_count import count_device_files
from gemfit.core.hub_commit import is_offline
from gemfit.core.nvidia_smi import (
    NvidiaSmiFault,
    NvidiaSmiUnavailable,
    Row,
    compute_capability,
    is_broken,
    number,
    query_gpus,
)
from gemfit.schemas.check import CheckResult, error, ok, warning

MIB, GB = 2**20, 10**9
WRITTEN = 256 * MIB
SLOW_MB, FREE_GB = 100, 50
"""Below this a checkpoint of a 1b model takes minutes, or a few of them fill the disk."""
OPEN_FILES, LOCKED_BYTES, SHARED_BYTES = 4096, 2**30, 2**30
HUB_SECONDS = 5
GPU_FIELDS = ("name", "driver_version", "memory.total", "compute_cap")
GPU_SECONDS = 20
NO_TOOL = "install nvidia-smi (in a container: the `utility` capability), which names broken GPUs"
SLURM_TOOLS = ("sbatch", "srun", "squeue", "scontrol", "scancel")


def check_disks(folders: dict[str, Path]) -> Iterator[CheckResult]:
    """Write speed and free space of each folder; for a missing folder, of its parent."""
    for name, folder in folders.items():
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        try:
            speed = write_speed(place, WRITTEN)
        except OSError as fault:
            yield error("disk", name, f"{place}: {fault.strerror}", "choose a folder that can be written to")
            continue
        yield judge_disk(name, place, speed, shutil.disk_usage(place).free)


def write_speed(folder: Path, size: int) -> float:
    """Bytes per second at which a new file of ``size`` bytes is written and synced."""
    block = os.urandom(MIB)
    with tempfile.TemporaryFile(dir=folder) as stream:
        started = time.perf_counter()
        for _ in range(size // MIB):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
        return size / (time.perf_counter() - started)


def judge_disk(name: str, folder: Path, speed: float, free: int) -> CheckResult:
    """The result for a write speed in bytes per second and free space in bytes."""
    found = f"{folder}: {speed / 1e6:,.0f} MB/s written and synced, {free / GB:,.0f} GB free"
    if free < GB:
        return error("disk", name, found, "free some room, or write elsewhere")
    if free < FREE_GB * GB:
        return warning("disk", name, found, "compare with the disk that `gemfit plan` predicts")
    if speed < SLOW_MB * 1e6:
        return warning("disk", name, found, "a slow disk makes long saves: write runs to a faster one")
    return ok("disk", name, found)


def check_limits() -> Iterator[CheckResult]:
    """Open files, locked memory and shared memory."""
    yield judge_limit(
        "open files (ulimit -n)", resource.getrlimit(resource.RLIMIT_NOFILE)[0], OPEN_FILES, "ulimit -n 65536"
    )
    yield judge_limit(
        "locked memory (ulimit -l)",
        resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        LOCKED_BYTES,
        "ulimit -l unlimited, which InfiniBand and pinned memory need",
    )
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    yield judge_limit(
        "shared memory (/dev/shm)", shared, SHARED_BYTES, "in a container: --shm-size, which NCCL needs"
    )


def judge_limit(name: str, value: int, wanted: int, do: str) -> CheckResult:
    """Whether a limit is high enough."""
    if value == resource.RLIM_INFINITY:
        return ok("limits", name, "unlimited")
    return ok("limits", name, f"{value:,}") if value >= wanted else warning("limits", name, f"{value:,}", do)


def check_ports() -> CheckResult:
    """Whether a free port of this machine accepts connections, which the rendezvous of ranks needs."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(b"x")
                met, _ = server.accept()
                with met:
                    assert met.recv(1) == b"x"
    except OSError as fault:
        return error("network", "localhost", str(fault), "let processes of this machine connect to 127.0.0.1")
    return ok("network", "localhost", f"a free port ({port}) can be opened and reached")


def check_hub(environment: dict[str, str]) -> CheckResult:
    """Whether the Hub answers; not asked when HF_HUB_OFFLINE is set."""
    if is_offline(environment):
        return ok("network", "hub", "not asked: HF_HUB_OFFLINE is set, so models come from the cache")
    address = environment.get("HF_ENDPOINT", "https://huggingface.co")
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS) as answer:
            return ok("network", "hub", f"{address} answers ({answer.status})")
    except urllib.error.HTTPError as fault:
        return ok("network", "hub", f"{address} answers ({fault.code})")
    except (OSError, ValueError) as fault:
        return warning(
            "network",
            "hub",
            f"{address} does not answer: {getattr(fault, 'reason', fault)}",
            "use local folders or a filled cache, with HF_HUB_OFFLINE=1; or set HTTPS_PROXY",
        )


def check_slurm() -> CheckResult:
    """Which of Slurm's commands are on PATH."""
    missing = [tool for tool in SLURM_TOOLS if shutil.which(tool) is None]
    if len(missing) == len(SLURM_TOOLS):
        return ok("slurm", "commands", "none on PATH: `gemfit run` works, `gemfit submit` does not")
    if missing:
        return warning(
            "slurm", "commands", f"not found: {', '.join(missing)}", "add Slurm's bin folder to PATH"
        )
    return ok("slurm", "commands", ", ".join(SLURM_TOOLS))


def check_gpus() -> Iterator[CheckResult]:
    """GPUs as the driver reports them."""
    try:
        rows = query_gpus(GPU_FIELDS, timeout_seconds=GPU_SECONDS)
    except NvidiaSmiUnavailable as why:
        if files := count_device_files(Path("/")):
            yield warning("gpus", "driver", f"{why}, and there are device files of {files} GPUs", NO_TOOL)
        else:
            yield ok("gpus", "driver", f"{why}: no GPU, or a login node")
        return
    except NvidiaSmiFault as fault:
        yield error("gpus", "driver", str(fault), "ask the administrator of this machine")
        return
    yield from judge_gpus(rows)


def judge_gpus(rows: Sequence[Row]) -> Iterator[CheckResult]:
    """One result per kind of GPU."""
    if not rows:
        yield error("gpus", "GPUs", "the driver sees none", "ask the administrator of this machine")
    kinds = Counter(tuple(row.values()) for row in rows)
    for kind, count in kinds.items():
        yield _judge_kind(dict(zip(GPU_FIELDS, kind, strict=True)), count)
    if len(kinds) > 1:
        yield warning(
            "gpus", "GPUs", "of several kinds", "the slowest sets the pace: choose with CUDA_VISIBLE_DEVICES"
        )


def _judge_kind(row: Row, count: int) -> CheckResult:
    name, driver, memory, capability = (row[field] for field in GPU_FIELDS)
    amount = f"{memory} MiB" if number(memory) is not None else f"memory {memory}"
    found = f"{count} x {name}, {amount}, compute capability {capability}, driver {driver}"
    if is_broken(row):
        return error("gpus", "GPUs", found, "ask the administrator of this machine")
    known = compute_capability(capability)
    if known is not None and known < (8, 0):
        return error("gpus", "GPUs", found, "bfloat16 needs 8.0 or more: set model.dtype to float32")
    return ok("gpus", "GPUs", found)
