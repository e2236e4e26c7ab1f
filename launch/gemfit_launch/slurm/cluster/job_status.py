"""State of a run as a Slurm job: one squeue call, and the run folder for jobs that Slurm has forgotten.

Needs no accounting database. A job that Slurm no longer knows has ended, and the verdict states its outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.runs.status import RunState, RunStatus, damaged_status, read_state, read_status
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.cluster.cancel import known_jobs
from gemfit_launch.slurm.commands import Job
from gemfit_launch.slurm.records.job_attempts import STOP_BY_COMMAND
from gemfit_launch.slurm.records.job_files import JobFiles, Submission

UNREADABLE = (UserError, OSError, ValueError)
"""What reading the files of a damaged run raises, or of one that this user may not read."""

WAITING = {
    "AssocGrpGRES": "the account uses all GPUs that it may use",
    "BeginTime": "it was requeued, and Slurm delays its start",
    "Dependency": "another job has to end first",
    "DependencyNeverSatisfied": "a job that it depends on has failed, so it never starts",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by its user; `scontrol release JOB`",
    "None": "Slurm has not considered it yet",
    "PartitionDown": "the partition is down",
    "PartitionNodeLimit": "it never starts: more nodes than the partition has or allows",
    "PartitionTimeLimit": "it never starts: a longer time limit than the partition allows",
    "Priority": "jobs of higher priority come first",
    "QOSMaxGRESPerUser": "you use as many GPUs as the QOS allows",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as the QOS allows",
    "ReqNodeNotAvail": "a node that it needs is down or reserved",
    "Reservation": "the reservation has not begun",
    "Resources": "not enough free nodes",
}


@dataclass(frozen=True, slots=True)
class Queue:
    """The jobs that Slurm knows, or its error message."""

    jobs: dict[int, Job]
    error_message: str = ""


def read_statuses(runs: Sequence[RunDir]) -> list[RunStatus]:
    """The status of each run, with one call of squeue if any of them was submitted."""
    queue = ask([run for run in runs if _has_sound_submissions(run)])
    return [_read_or_damaged(run, queue) for run in runs]


def ask(runs: Sequence[RunDir]) -> Queue:
    """The jobs of these runs; if Slurm does not answer, its error message."""
    try:
        return Queue(known_jobs(runs))
    except commands.SlurmError as error:
        return Queue({}, str(error))


def read_with_job(run: RunDir, queue: Queue) -> RunStatus:
    """The status of a run; from its folder alone if it was never submitted."""
    made = JobFiles(run).newest()
    if made is None:
        return read_status(run)
    return read_status(run, state=state_of(run, made, queue), job=made.job, waits_for=waits_for(made, queue))


def _has_sound_submissions(run: RunDir) -> bool:
    try:
        JobFiles(run).submissions()
    except UNREADABLE:
        return False
    return True


def _read_or_damaged(run: RunDir, queue: Queue) -> RunStatus:
    try:
        return read_with_job(run, queue)
    except UNREADABLE as error:
        return damaged_status(run, error)


def state_of(run: RunDir, made: Submission, queue: Queue) -> RunState:
    """The state of a run whose newest job is ``made``."""
    job = queue.jobs.get(made.job)
    if job is None and queue.error_message:
        return "unknown"
    if job is None or job.is_over:
        return _ended(run, job)
    if job.state in ("PENDING", "SUSPENDED"):
        return "pending" if job.state == "PENDING" else "suspended"
    return "stopping" if _asked_to_stop(run) else "running"


def waits_for(made: Submission, queue: Queue) -> str:
    """Why a job is pending, with an explanation; empty while it runs and after its end."""
    job = queue.jobs.get(made.job)
    if job is None:
        return queue.error_message
    if job.state != "PENDING":
        return ""
    if job.reason == "Dependency" and made.pack_job in queue.jobs:
        return f"the data is packed first, by job {made.pack_job}"
    explanation = WAITING.get(job.reason.partition(",")[0], "")
    start = f"; expected to start {job.start}" if job.start != "N/A" else ""
    return f"{job.reason}{': ' if explanation else ''}{explanation}{start}"


def _ended(run: RunDir, job: Job | None) -> RunState:
    state, verdict = read_state(run), run.verdict()
    if state == "new" and verdict is not None:  # the data could not be packed
        return verdict.outcome
    was_cancelled = job is not None and job.state == "CANCELLED"
    return AttemptOutcome.CANCELLED if was_cancelled and state in ("new", AttemptOutcome.CRASHED) else state


def _asked_to_stop(run: RunDir) -> bool:
    return run.stop_file.is_file() and run.stop_file.read_text().strip() == STOP_BY_COMMAND
