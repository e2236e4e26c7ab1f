"""CPU cores that this process may use: affinity, Slurm's allocation and the quota of a container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores that this process may use: of a Slurm job or a container, those that it was given."""
    cores = len(os.sched_getaffinity(0))
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if given.isdecimal() and int(given):
        cores = min(cores, int(given))
    return max(1, min([cores, *_quotas(CGROUPS, Path("/proc/self/cgroup"))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[int]:
    """CPU time limits of this process's control groups, in cores, rounded up.

    Containers of Kubernetes and ``docker run --cpus`` see all cores of the host, and get a share of their
    time.
    """
    with suppress(OSError, ValueError):
        quota = int((cgroups / "cpu" / "cpu.cfs_quota_us").read_text())  # control groups of version 1
        if quota > 0:
            yield math.ceil(quota / int((cgroups / "cpu" / "cpu.cfs_period_us").read_text()))
    for group in _groups(own):
        with suppress(OSError, ValueError):
            limit, period = (cgroups / group / "cpu.max").read_text().split()
            if limit != "max":
                yield math.ceil(int(limit) / int(period))


def _groups(own: Path) -> Iterator[str]:
    """The control group of version 2 that this process is in, and those above it."""
    with suppress(OSError):
        for line in own.read_text().splitlines():
            if line.startswith("0::"):
                path = Path(line.removeprefix("0::/"))
                yield from map(str, (path, *path.parents))
