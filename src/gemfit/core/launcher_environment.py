"""Environment variables of launchers and schedulers that a child process must not inherit."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

NAMES = frozenset(
    {
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"),
        *("GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "CROSS_RANK", "CROSS_SIZE"),
        *("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # of Intel MPI, which accelerate reads
    }
)
WATCHED_VARIABLE = "GEMFIT_WATCHED_FOR_HANGS"
"""Set for ranks whose supervisor ends an attempt without a step for `hang_seconds` of running time."""
COMMAND_TIME, LAUNCH_TIME = "GEMFIT_COMMAND_TIME", "GEMFIT_LAUNCH_TIME"
"""When the command of the user began, and when its launcher started the processes of the attempt; in seconds
since the Unix epoch."""
PREFIXES = (
    "ACCELERATE_",
    "FSDP_",
    "MASTER_",
    "MV2_COMM_",
    "OMPI_",
    "PARALLELISM_CONFIG_",
    "PET_",
    "PMI_",
    "PMI2_",
    "PMIX_",
    "SLURM_",
    "TORCHELASTIC_",
)


def without_launcher_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without ranks, addresses and settings that an outer launcher or job has set.

    Libraries in the child would take them for their own.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in NAMES and not name.startswith(PREFIXES)
    }


def remove_working_folder_from_path() -> None:
    """Undo accelerate's addition of the working folder to PYTHONPATH, which it makes for DeepSpeed.

    A file called ``datasets.py`` there would be imported in place of the library.
    """
    *given, last = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if "ACCELERATE_USE_DEEPSPEED" not in os.environ or last != str(Path.cwd()) or last in given:
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(given)
    if last in sys.path:
        sys.path.remove(last)
