"""Copy the code of both packages into the run folder, so that a requeued job runs what was submitted.

Copies the two packages, some hundred small files; libraries stay where they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gemfit
import gemfit_launch
from gemfit.rundir import RunDir

PACKAGES = (gemfit, gemfit_launch)
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc")


def snapshot_code(run: RunDir) -> None:
    """Copy the packages as they are now into the run folder, in place of what is there."""
    folder = code_folder(run)
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(Path(str(package.__file__)).parent, staging / package.__name__, ignore=NOT_CODE)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def code_folder(run: RunDir) -> Path:
    """First on the import path of everything that a job starts."""
    return run.root / "code"
