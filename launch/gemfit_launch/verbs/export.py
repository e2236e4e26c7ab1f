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
@click.option("--adapter", is_flag=True, help="Write the LoRA adapter alone, not merged.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    help="Type of the weights.  [default: the recipe's]",
)
@click.option(
    "--shard-gb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Largest file of weights.  [default: 5]",
)
@json_option
def export(run: Path, out: Path | None, as_json: bool, **options: object) -> None:
    """Export a Hugging Face model folder.

    A text-only model, unless --multimodal.

    \b
    Example:
      gemfit export runs/first --checkpoint best
      gemfit export runs/first --checkpoint 200 --out models/first
      gemfit export runs/lora --adapter --dtype bfloat16
    """
    run_dir = RunDir.open(run)
    require_train_extra("export")
    argv = to_argv({"out": out or run_dir.export, **options, "json": as_json})
    raise click.exceptions.Exit(run_module("gemfit.export.export", [str(run), *argv]))
