"""``gemfit sync``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit.schemas.recipe_training import DERIVED_TRACKERS
from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import run_module
from gemfit_launch.verbs._options import RUN_FOLDER, json_option


@click.command()
@click.argument("runs", type=RUN_FOLDER, metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--to", type=click.Choice(DERIVED_TRACKERS), multiple=True, help="A tracker.  [default: the recipe's]"
)
@json_option
def sync(runs: tuple[Path, ...], to: tuple[str, ...], as_json: bool) -> None:
    """Send metrics to experiment trackers.

    Sends the steps that a tracker lacks, each once: after a training on nodes without a network, or to a
    tracker that the recipe does not name. Weights & Biases, MLflow and Trackio are reached as their own
    variables say (WANDB_API_KEY, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID).
    Exit status: 0 sent, 75 a tracker was not reached, 2 invalid input.

    \b
    Example:
      gemfit sync runs/first runs/second
      gemfit sync runs/first --to mlflow
    """
    for run in runs:
        RunDir.open(run)
    argv = to_argv({"to": to, "json": as_json})
    raise click.exceptions.Exit(run_module("gemfit.tracking", [*map(str, runs), *argv]))
