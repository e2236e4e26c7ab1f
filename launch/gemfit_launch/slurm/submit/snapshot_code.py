"""Copy the code of both packages into the run folder, so that a requeued job runs what was submitted.

Copies the two packages, some hundred small files; libraries stay where they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gemfit
import gemfit_launch
from gemfit.errors import UserError
from gemfit.rundir import RunDir

PACKAGES = (gemfit, gemfit_launch)
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc")


def snapshot_code(run: RunDir) -> None:
    """Copy the packages as they are now into the run folder, in place of what is there.

    A file that cannot be written, as on a full disk, is a ``UserError``; what is there stays.
    """
    folder = code_folder(run)
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for package in PACKAGES:
            shutil.copytree(Path(str(package.__file__)).parent, staging / package.__name__, ignore=NOT_CODE)
    except shutil.Error as error:  # of many files; it has no errno
        _, place, why = error.args[0][0]
        shutil.rmtree(staging, ignore_errors=True)
        reason = str(why).partition(": '")[0]
        raise UserError(
            f"{place}: cannot be written: {reason}; free some space, or use another folder"
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def code_folder(run: RunDir) -> Path:
    """First on the import path of everything that a job starts."""
    return run.root / "code"
