"""Name of this machine, as Slurm knows it in a job."""

from __future__ import annotations

import os
import platform


def host_name() -> str:
    """Slurm's name of this node, which `sbatch --exclude` takes; else the name of the machine."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()
