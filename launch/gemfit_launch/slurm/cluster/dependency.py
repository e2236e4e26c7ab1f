"""Check a job that another one is to wait for."""

from __future__ import annotations

from gemfit.errors import UserError
from gemfit_launch.slurm import commands


def check_dependency(job: int | None) -> None:
    """``UserError`` if ``job`` cannot succeed any more, or if Slurm does not know it.

    sbatch accepts a dependency on an unknown job and starts the new one at once.
    """
    if job is None:
        return
    found = commands.jobs([job]).get(job)
    if found is None:
        raise UserError(
            f"--after {job}: Slurm does not know this job, or has forgotten it, so the new one would "
            "not wait; leave --after out if it has succeeded"
        )
    if found.state.phase == "ended" and found.state.text != "COMPLETED":
        raise UserError(
            f"--after {job}: this job has not succeeded ({found.state.text}), so the new one never starts"
        )
