"""``gemfit stop`` and ``cancel``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.runs.status import ACTIVE_STATES
from gemfit_launch.slurm.cluster.cancel import cancel_jobs, stop_job
from gemfit_launch.slurm.cluster.job_status import read_statuses
from gemfit_launch.slurm.commands import SlurmError
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.verbs._options import RUN_FOLDER

POLL_SECONDS = 0.5
POLL_QUEUE_SECONDS = 3.0
"""A Slurm controller serves many users."""
HALTED = (AttemptOutcome.COMPLETED, AttemptOutcome.STOPPED, AttemptOutcome.CANCELLED)
"""Ends that `gemfit stop --wait` reports as success."""


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--wait", is_flag=True, help="Return when the run has ended.")
def stop(run: Path, wait: bool) -> None:
    """Save a checkpoint and stop.

    The run stops after its current step. A Slurm job ends then and is not requeued; a pending one is
    cancelled.

    \b
    Example:
      gemfit stop runs/first --wait
    """
    run_dir = RunDir.open(run)
    state = read_statuses([run_dir])[0].state
    if state not in ACTIVE_STATES and not run_dir.is_active:
        click.echo(f"{run}: is not running ({state})")
        return
    click.echo(f"{run}: {_request(run_dir)}")
    if wait:
        raise click.exceptions.Exit(_wait(run_dir))


@click.command()
@click.argument("run", type=RUN_FOLDER)
def cancel(run: Path) -> None:
    """Cancel a Slurm job without saving.

    The run keeps its last checkpoint; `gemfit stop` saves one first.

    \b
    Example:
      gemfit cancel runs/first
    """
    cancelled = cancel_jobs(RunDir.open(run))
    for job in cancelled:
        click.echo(f"{run}: job {job} is cancelled")
    if not cancelled:
        click.echo(f"{run}: has no pending or running job")


def _request(run: RunDir) -> str:
    """Ask for the stop, and say what was done."""
    try:
        done = stop_job(run) if JobFiles(run).newest() is not None else ""
    except SlurmError as error:
        run.request_stop()
        return f"{error}; asked to save and end by its stop file, which a pending job finds when it starts"
    if not done:
        run.request_stop()
    return done or "asked to save and stop"


def _wait(run: RunDir) -> ExitCode:
    seconds = POLL_SECONDS if JobFiles(run).newest() is None else POLL_QUEUE_SECONDS
    while (state := read_statuses([run])[0].state) in ACTIVE_STATES:
        time.sleep(seconds)
    click.echo(f"{run.root}: {state}")
    return ExitCode.DONE if state in HALTED else ExitCode.FAILED
