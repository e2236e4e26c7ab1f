"""``gemfit status``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit_launch.output.report_facts import read_goodput
from gemfit_launch.output.tables import show_status
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.runs.status import ACTIVE_STATES, RUNS, RunStatus, find_runs
from gemfit_launch.slurm.cluster.job_status import read_statuses
from gemfit_launch.verbs._options import RUN_FOLDER, json_option, price_option

WATCH_SECONDS = 5.0


@click.command()
@click.argument("runs", type=RUN_FOLDER, nargs=-1, metavar="[RUN]...")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="Plot the losses of one run.")
@click.option("--watch", is_flag=True, help="Refresh until all runs have ended.")
@price_option
@json_option
def status(
    runs: tuple[Path, ...], plot: Path | None, watch: bool, price: float | None, as_json: bool
) -> None:
    """Show the progress of runs.

    Without a RUN, all runs in the folder runs/. For a pending Slurm job, the reason. For each RUN that is
    named, its goodput: the share of the allocated GPU time that became kept steps, and where the rest went.

    \b
    Example:
      gemfit status --watch
      gemfit status runs/first --price 2.50
      gemfit status runs/first --plot loss.png
    """
    if price is not None and not runs:
        raise click.UsageError("--price has no effect without a RUN; name one")
    found = [RunDir.open(run) for run in runs] if runs else find_runs()
    if not found:
        raise UserError(f"there is no run in {RUNS}/; name a run folder, or start one with `gemfit run`")
    while True:
        statuses = read_statuses(found)
        if runs:
            pairs = zip(found, statuses, strict=True)
            statuses = [_with_goodput(run, status, price) for run, status in pairs]
        if watch and not as_json:
            click.clear()
        _show(statuses, as_json)
        if not watch or not any(status.state in ACTIVE_STATES for status in statuses):
            break
        time.sleep(WATCH_SECONDS)
    if plot is not None:
        raise click.exceptions.Exit(_plot(found, plot))


def _with_goodput(run: RunDir, status: RunStatus, price: float | None) -> RunStatus:
    if status.state == "damaged":
        return status
    return status.model_copy(update={"goodput": read_goodput(run, status.state, price)})


def _show(statuses: list[RunStatus], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([status.model_dump(mode="json") for status in statuses], indent=2))
    else:
        show_status(statuses)


def _plot(runs: list[RunDir], picture: Path) -> ExitCode:
    if len(runs) != 1:
        raise UserError(f"--plot {picture}: draws one run, and {len(runs)} are shown; name one")
    require_train_extra("status --plot")
    return run_module("gemfit.train.telemetry.plot", [str(runs[0].root), "--out", str(picture)])
