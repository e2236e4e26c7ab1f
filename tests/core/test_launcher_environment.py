"""Variables and paths that launchers set for their ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gemfit.core.launcher_environment import (
    remove_working_folder_from_path,
    without_launcher_variables,
)

LEAKS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_NTASKS", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    *("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    *("PMI_RANK", "PMI_SIZE", "PMI2_SIZE", "PMIX_RANK"),
    *("PET_NNODES", "PET_STANDALONE", "PET_RDZV_BACKEND", "TORCHELASTIC_RUN_ID"),
    *("ACCELERATE_USE_FSDP", "FSDP_VERSION", "ROLE_RANK", "GROUP_WORLD_SIZE"),
)
KEPT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "NCCL_DEBUG", "MPI_HOME", "PETSC_DIR", "PYTHONPATH")


def test_variables_of_other_launchers_do_not_reach_a_rank() -> None:
    given = dict.fromkeys([*LEAKS, *KEPT], "7")
    assert without_launcher_variables(given) == dict.fromkeys(KEPT, "7")


@pytest.mark.parametrize(
    ("deepspeed", "given", "stays"),
    [(True, "/code", False), (True, "", False), (True, "/code:{here}", True), (False, "/code", True)],
)
def test_a_rank_of_deepspeed_does_not_import_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deepspeed: bool, given: str, stays: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(Path.cwd())
    paths = [path for path in given.format(here=here).split(":") if path]
    monkeypatch.setenv("PYTHONPATH", ":".join([*paths, here]))
    monkeypatch.setattr(sys, "path", [*paths, *([] if here in paths else [here]), "/lib"])
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    if deepspeed:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    remove_working_folder_from_path()
    assert (here in sys.path) is stays
    assert (here in os.environ["PYTHONPATH"].split(":")) is stays
    assert "/lib" in sys.path
