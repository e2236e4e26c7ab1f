"""Environment variables of launchers and schedulers that a child process must not inherit."""

from __future__ import annotations

from collections.abc import Mapping

NAMES = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"})
PREFIXES = ("ACCELERATE_", "FSDP_", "MASTER_", "OMPI_", "PMI_", "SLURM_", "TORCHELASTIC_")


def without_launcher_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without ranks, addresses and settings that an outer launcher or job has set.

    Libraries in the child would take them for their own.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in NAMES and not name.startswith(PREFIXES)
    }
