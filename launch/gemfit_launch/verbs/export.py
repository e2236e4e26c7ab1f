"""``gemfit export``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, checkpoint_option, json_option


@click.command()
@click.argument("run", type=RUN_FOLDER)
@checkpoint_option(base=False)
@click.option("--out", type=RUN_FOLDER, help="Output folder.  [default: RUN/export]")
@click.option("--multimodal", is_flag=True, help="Add the base model's vision tower (4b and larger).")
@json_option
def export(run: Path, checkpoint: str | None, out: Path | None, multimodal: bool, as_json: bool) -> None:
    """Export a Hugging Face model folder.

    A text-only model, unless --multimodal.

    \b
    Example:
      gemfit export runs/first --checkpoint best
      gemfit export runs/first --checkpoint 200 --out models/first
    """
    run_dir = RunDir.open(run)
    require_train_extra("export")
    options = {
        "out": out or run_dir.export,
        "checkpoint": checkpoint,
        "multimodal": multimodal,
        "json": as_json,
    }
    raise click.exceptions.Exit(run_module("gemfit.export.export", [str(run), *to_argv(options)]))
