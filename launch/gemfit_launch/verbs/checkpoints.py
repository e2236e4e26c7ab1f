"""``gemfit checkpoints``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit_launch.output.tables import show_checkpoints
from gemfit_launch.runs.checkpoints import read_checkpoints
from gemfit_launch.runs.python_module import ask_answer, require_train_extra
from gemfit_launch.verbs._options import RUN_FOLDER, json_option


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--verify", is_flag=True, help="Compare every byte with the digests.")
@json_option
def checkpoints(run: Path, verify: bool, as_json: bool) -> None:
    """List and verify checkpoints.

    Without --verify only names and sizes are checked. Exit status: 1 where --verify finds damage.

    \b
    Example:
      gemfit checkpoints runs/first --verify
    """
    run_dir = RunDir.open(run)
    verified = None
    if verify:
        require_train_extra("checkpoints --verify")
        verified = json.loads(ask_answer("gemfit.checkpoint.verify_digests", [str(run)]))
    found = read_checkpoints(run_dir, verified)
    if as_json:
        click.echo(json.dumps([status.model_dump(mode="json") for status in found], indent=2))
    else:
        show_checkpoints(found)
    if verified is not None and any(verified.values()):
        raise click.exceptions.Exit(ExitCode.FAILED)
