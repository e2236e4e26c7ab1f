"""``gemfit stop`` and ``status``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit_launch.output.tables import show_status
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.runs.status import GOING_ON, RUNS, RunStatus, find_runs
from gemfit_launch.slurm.cluster.cancel import stop_job
from gemfit_launch.slurm.cluster.job_status import read_statuses
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.verbs._options import RUN_FOLDER, json_option

POLL_SECONDS = 0.5
POLL_QUEUE_SECONDS = 3.0
"""A controller serves thousands of users."""

WATCH_SECONDS = 5.0


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--wait", is_flag=True, help="Return when the run has ended.")
def stop(run: Path, wait: bool) -> None:
    """Ask a run to save and stop at its next step.

    A Slurm job ends after that and does not come back; one that only waits is cancelled.

    \b
    Example:
      gemfit stop runs/first --wait
    """
    run_dir = RunDir.open(run)
    state = read_statuses([run_dir])[0].state
    if state not in GOING_ON and not run_dir.is_active:
        click.echo(f"{run}: is not running ({state})")
        return
    if JobFiles(run_dir).newest() is not None and (done := stop_job(run_dir)):
        click.echo(f"{run}: {done}")
    else:
        run_dir.request_stop()
        click.echo(f"{run}: asked to save and stop")
    if wait:
        raise click.exceptions.Exit(_wait(run_dir))


@click.command()
@click.argument("runs", type=RUN_FOLDER, nargs=-1, metavar="[RUN]...")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="Draw the losses of one run.")
@click.option("--watch", is_flag=True, help="Show it again and again, until all have ended.")
@json_option
def status(runs: tuple[Path, ...], plot: Path | None, watch: bool, as_json: bool) -> None:
    """Show how runs are doing.

    Without a RUN, all of those in the folder runs/ are shown. Of a Slurm job it tells why it waits.

    \b
    Example:
      gemfit status --watch
      gemfit status runs/first --plot loss.png
    """
    found = [RunDir.open(run) for run in runs] if runs else find_runs()
    if not found:
        raise UserError(f"there is no run in {RUNS}/; name a run folder, or start one with `gemfit run`")
    while True:
        statuses = read_statuses(found)
        if watch and not as_json:
            click.clear()
        _show(statuses, as_json)
        if not watch or not any(status.state in GOING_ON for status in statuses):
            break
        time.sleep(WATCH_SECONDS)
    if plot is not None:
        raise click.exceptions.Exit(_plot(found, plot))


def _show(statuses: list[RunStatus], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([status.model_dump(mode="json") for status in statuses], indent=2))
    else:
        show_status(statuses)


def _wait(run: RunDir) -> ExitCode:
    seconds = POLL_SECONDS if JobFiles(run).newest() is None else POLL_QUEUE_SECONDS
    while (state := read_statuses([run])[0].state) in GOING_ON:
        time.sleep(seconds)
    click.echo(f"{run.root}: {state}")
    return ExitCode.DONE if state in ("stopped", "completed", "cancelled") else ExitCode.FAILED


def _plot(runs: list[RunDir], picture: Path) -> ExitCode:
    if len(runs) != 1:
        raise UserError(f"--plot {picture}: draws one run, and {len(runs)} are shown; name one")
    require_train_extra("status --plot")
    return run_module("gemfit.train.telemetry.plot", [str(runs[0].root), "--out", str(picture)])
