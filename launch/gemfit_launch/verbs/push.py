"""``gemfit push``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, checkpoint_option, json_option


@click.command()
@click.argument("runs", type=RUN_FOLDER, metavar="RUN...", nargs=-1, required=True)
@click.option("--repo", metavar="NAMESPACE/NAME", help="Repository.  [default: the recipe's hub.repo]")
@checkpoint_option(base=False)
@click.option("--public", is_flag=True, help="Make a new repository public.")
@click.option("--message", metavar="TEXT", help="Commit message.  [default: Step N]")
@click.option("--adapter", is_flag=True, help="Push the LoRA adapter alone, not merged.")
@click.option("--multimodal", is_flag=True, help="Add the base model's vision tower.")
@click.option("--again", is_flag=True, help="Push a step again, with its current card.")
@click.option("--spooled", is_flag=True, help="Send only what is queued in the spools of runs.")
@click.option("--dry-run", is_flag=True, help="List the files and their sizes, and send nothing.")
@json_option
def push(
    runs: tuple[Path, ...], spooled: bool, dry_run: bool, as_json: bool, **options: str | bool | None
) -> None:
    """Push to the Hugging Face Hub.

    Sends a checkpoint with its model card. A new repository is private, unless --public. What cannot be
    sent now stays in the spool of the run. The token is that of `hf auth login`, or HF_TOKEN;
    HF_ENDPOINT names another Hub.
    Exit status: 0 sent, 75 something is queued in the spool, 2 invalid input.

    \b
    Example:
      gemfit push runs/first --repo me/first --checkpoint best
      gemfit push runs/first --repo me/first --dry-run
      gemfit push --spooled runs/first runs/second
    """
    given = [word for word in to_argv({**options, "dry_run": dry_run}) if word.startswith("--")]
    if spooled and given:
        raise click.UsageError(f"--spooled sends what was chosen before; leave out {' and '.join(given)}")
    if len(runs) > 1 and not spooled:
        raise click.UsageError("push one RUN at a time; only --spooled takes several")
    for run in runs:
        RunDir.open(run)
    require_train_extra("push")
    argv = to_argv({"spooled": spooled, "dry_run": dry_run, "json": as_json, **options})
    raise click.exceptions.Exit(run_module("gemfit.publish.push", [*map(str, runs), *argv]))
