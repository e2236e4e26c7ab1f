"""``gemfit card``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import FILE, RUN_FOLDER, checkpoint_option, json_option


@click.command()
@click.argument("run", type=RUN_FOLDER)
@checkpoint_option(base=False)
@click.option("--out", type=FILE, help="Output file.  [default: RUN/card/README.md]")
@click.option("--notes", type=FILE, help="Text of your own, in Markdown.  [default: RUN/card/notes.md]")
@click.option("--license", metavar="ID", help="License, where no file of the base model names it.")
@click.option("--base-model", metavar="ID", help="Hub name of a base model that was read from a folder.")
@click.option("--language", metavar="CODE", multiple=True, help="Language of the conversations; repeatable.")
@click.option(
    "--grid-intensity", type=click.FloatRange(min=0), metavar="G/KWH", help="Grams of CO2 equivalent per kWh."
)
@click.option("--pue", type=click.FloatRange(min=1), help="Power usage effectiveness of the data center.")
@json_option
def card(run: Path, as_json: bool, **options: object) -> None:
    """Write the model card.

    Values come from the run's own files; what was not measured is marked as such. What the options from
    --notes on state is stored, and used by every later card of the run.

    \b
    Example:
      gemfit card runs/first
      gemfit card runs/first --checkpoint 200 --notes notes.md --language en --grid-intensity 350
    """
    RunDir.open(run)
    require_train_extra("card")
    argv = to_argv({**options, "json": as_json})
    raise click.exceptions.Exit(run_module("gemfit.modelcard.card", [str(run), *argv]))
