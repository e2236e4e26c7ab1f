"""``gemfit stop`` and ``status``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit_launch.child import require_train_extra, run_module
from gemfit_launch.options import RUN_FOLDER, json_option
from gemfit_launch.report import show_status
from gemfit_launch.runstatus import RUNS, find_runs, read_state, read_status

POLL_SECONDS = 0.5


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--wait", is_flag=True, help="Return when the run has ended.")
def stop(run: Path, wait: bool) -> None:
    """Ask a run to save and stop at its next step.

    \b
    Example:
      gemfit stop runs/first --wait
    """
    run_dir = RunDir.open(run)
    if not run_dir.is_active:
        click.echo(f"{run}: is not running ({read_state(run_dir)})")
        return
    run_dir.request_stop()
    click.echo(f"{run}: asked to save and stop")
    if wait:
        raise click.exceptions.Exit(_wait(run_dir))


@click.command()
@click.argument("runs", type=RUN_FOLDER, nargs=-1, metavar="[RUN]...")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="Draw the losses of one run.")
@json_option
def status(runs: tuple[Path, ...], plot: Path | None, as_json: bool) -> None:
    """Show how runs are doing.

    Without a RUN, all of those in the folder runs/ are shown.

    \b
    Example:
      gemfit status
      gemfit status runs/first --plot loss.png
    """
    found = [RunDir.open(run) for run in runs] if runs else find_runs()
    if not found:
        raise UserError(f"there is no run in {RUNS}/; name a run folder, or start one with `gemfit run`")
    statuses = [read_status(run) for run in found]
    if as_json:
        click.echo(json.dumps([status.model_dump(mode="json") for status in statuses], indent=2))
    else:
        show_status(statuses)
    if plot is not None:
        raise click.exceptions.Exit(_plot(found, plot))


def _wait(run: RunDir) -> ExitCode:
    while run.is_active:
        time.sleep(POLL_SECONDS)
    state = read_state(run)
    click.echo(f"{run.root}: {state}")
    return ExitCode.DONE if state in ("stopped", "completed") else ExitCode.FAILED


def _plot(runs: list[RunDir], picture: Path) -> ExitCode:
    if len(runs) != 1:
        raise UserError(f"--plot {picture}: draws one run, and {len(runs)} are shown; name one")
    require_train_extra("status --plot")
    return run_module("gemfit.train.plot", [str(runs[0].root), "--out", str(picture)])
