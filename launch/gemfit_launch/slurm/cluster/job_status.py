"""State of a run as a Slurm job: one squeue call, and the run folder for jobs that Slurm has forgotten.

Needs no accounting database. A job that Slurm no longer knows has ended, and the verdict states its outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.runs.status import RunState, RunStatus, damaged_status, read_status
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.cluster.cancel import known_jobs
from gemfit_launch.slurm.cluster.ended_job import ended_state
from gemfit_launch.slurm.cluster.pending_reason import explain
from gemfit_launch.slurm.commands import Job
from gemfit_launch.slurm.records.job_attempts import STOP_BY_COMMAND, newest_start
from gemfit_launch.slurm.records.job_files import JobFiles, Submission
from gemfit_launch.slurm.states import JobState

UNREADABLE = (UserError, OSError, ValueError)
"""What reading the files of a damaged run raises, or of one that this user may not read."""


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
    state, reason = state_of(run, made, queue)
    start = newest_start(run) if state in ("running", "stopping", "suspended") else None
    return read_status(
        run,
        state=state,
        job=made.job,
        waits_for=waits_for(made, queue),
        reason=reason,
        nodes=start.nodes if start is not None else (),
        idle_nodes=start.idle if start is not None else (),
    )


def _has_sound_submissions(run: RunDir) -> bool:
    try:
        JobFiles(RunDir.open(run.root)).submissions()
    except UNREADABLE:
        return False
    return True


def _read_or_damaged(run: RunDir, queue: Queue) -> RunStatus:
    try:
        return read_with_job(RunDir.open(run.root), queue)
    except UNREADABLE as error:
        return damaged_status(run, error)


def state_of(run: RunDir, made: Submission, queue: Queue) -> tuple[RunState, str]:
    """The state of a run whose newest job is ``made``, and why it ended where no verdict states it."""
    job = queue.jobs.get(made.job)
    if job is None and queue.error_message:
        return "unknown", ""
    if job is None or job.state.phase == "ended":
        return ended_state(run, made, _decisive_state(made, job, queue) if job is not None else None)
    if job.state.phase == "running":
        return "stopping" if run.stop_requested_by() == STOP_BY_COMMAND else "running", ""
    state: RunState = job.state.phase
    return state, ""


def _decisive_state(made: Submission, job: Job, queue: Queue) -> JobState:
    """The state of an ended job; that of the packing job if Slurm cancelled the training because of it."""
    pack = queue.jobs.get(made.pack_job) if made.pack_job is not None else None
    if pack is None or job.state.outcome is not AttemptOutcome.CANCELLED:
        return job.state
    if pack.state.outcome in (None, AttemptOutcome.CANCELLED):
        return job.state
    return replace(pack.state, meaning=f"packing job {pack.id}: {pack.state.meaning}")


def waits_for(made: Submission, queue: Queue) -> str:
    """Why a job is pending, suspended or in an unknown state; empty while it runs and after its end."""
    job = queue.jobs.get(made.job)
    if job is None:
        return queue.error_message
    if job.state.phase in ("running", "ended"):
        return ""
    if job.reason == "Dependency" and made.pack_job in queue.jobs:
        return f"the data is packed first, by job {made.pack_job}"
    explained = [f"{job.state.text}: {job.state.meaning}"] if job.state.meaning else []
    if (job.state.phase == "pending" and job.reason != "None") or not explained:
        explained.append(explain(job.reason))
    if job.state.phase == "pending" and job.start != "N/A":
        explained.append(f"expected to start {job.start}")
    return "; ".join(explained)
