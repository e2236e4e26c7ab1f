"""State of a run whose newest Slurm job has ended: by its verdict, else by the state that Slurm reports."""

from __future__ import annotations

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.runs.status import ACTIVE_STATES, RunState, read_state
from gemfit_launch.slurm.records.job_attempts import read_attempts
from gemfit_launch.slurm.records.job_files import JobFiles, Submission
from gemfit_launch.slurm.states import JobState, parse_job_state


def ended_state(run: RunDir, made: Submission, job: JobState | None) -> tuple[RunState, str]:
    """The state, and the reason if no verdict contains it; ``job`` is ``None`` if Slurm has forgotten it."""
    if job is None and JobFiles(run).was_cancelled(made.job):
        job = parse_job_state("CANCELLED")
    state = read_state(run)
    if state in ACTIVE_STATES:  # resumed on this machine
        return state, ""
    began = [attempt.start.attempt for attempt in read_attempts(run) if attempt.start.job == str(made.job)]
    if not began:
        return _ended_before_attempt(run, made, job, state)
    without_verdict = run.verdict() is None and run.attempt in began
    if without_verdict and job is not None and job.outcome is not None:
        return job.outcome, job.meaning
    return state, ""


def _ended_before_attempt(
    run: RunDir, made: Submission, job: JobState | None, state: RunState
) -> tuple[RunState, str]:
    verdict = run.verdict()
    # An older verdict is that of an attempt of an earlier job. Only times of one clock are compared.
    if verdict is not None and (state == "new" or JobFiles(run).has_verdict_since("train")):
        return verdict.outcome, ""
    where = f"before its first attempt; `gemfit logs {run.root} --job` may say why"
    if job is None:
        return state, f"job {made.job} has ended {where}" if state == "new" else ""
    if job.outcome is None or job.outcome is AttemptOutcome.CANCELLED:
        return job.outcome or state, ""
    outcome = AttemptOutcome.FAILED if job.outcome is AttemptOutcome.CRASHED else job.outcome
    return outcome, f"{job.meaning} {where}"
