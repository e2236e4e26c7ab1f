"""Stop or cancel the jobs of a run, or check that there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.commands import Job
from gemfit_launch.slurm.records.job_files import JobFiles

logger = logging.getLogger(__name__)


def live_jobs(run: RunDir) -> list[Job]:
    """The jobs of a run that have not ended, as far as is known; the packing job first."""
    known = known_jobs([run])
    ids = [
        job for made in JobFiles(run).submissions() for job in (made.pack_job, made.job) if job is not None
    ]
    return [known[number] for number in ids if number in known and not known[number].is_over]


def known_jobs(runs: Iterable[RunDir]) -> dict[int, Job]:
    """Every job of these runs that Slurm still knows, by id, with one call."""
    names = {}
    for run in runs:
        files = JobFiles(run)
        for made in files.submissions():
            names[made.job] = files.job_name("train")
            if made.pack_job is not None:
                names[made.pack_job] = files.job_name("pack")
    known = commands.jobs(names).items()
    return {number: job for number, job in known if job.name.strip() == names[number].strip()}


def cancel_jobs(run: RunDir) -> list[int]:
    """Cancel every job of a run and return their ids; the training job first, as it waits for the other."""
    if JobFiles(run).newest() is None:
        raise UserError(f"{run.root}: was never submitted to Slurm; stop it with `gemfit stop {run.root}`")
    ids = [job.id for job in reversed(live_jobs(run))]
    for number in ids:
        commands.cancel(number)
    try:  # afterwards: a full disk or somebody else's folder must leave no job
        for number in ids:
            JobFiles(run).record_cancelled(number)
    except OSError as error:
        logger.warning(
            "%s: cannot be written: %s; it does not show the cancellation", run.root, error.strerror
        )
    return ids


def stop_job(run: RunDir) -> str:
    """Ask the job of a run to save and end; cancel it if it is pending.

    Returns what was done; empty if there is no job.
    """
    jobs = live_jobs(run)
    if not jobs:
        return ""
    training = jobs[-1]
    if training.state.phase == "pending":
        cancel_jobs(run)
        return f"job {training.id} was pending and is cancelled"
    run.request_stop()
    if training.state.phase == "unknown":
        return (
            f"job {training.id} is {training.state.text} ({training.state.meaning}); "
            "if it runs, it saves and ends"
        )
    return f"job {training.id} is asked to save and end"


def check_not_queued(run: RunDir) -> None:
    """``UserError`` while a job of the run is pending or running."""
    for job in live_jobs(run):
        why = f" ({job.state.meaning})" if job.state.meaning else ""
        raise UserError(
            f"{run.root}: job {job.id} is {job.state.text.lower()}{why}; end it first with "
            f"`gemfit stop {run.root}` or `gemfit cancel {run.root}`"
        )
