"""``gemfit card``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, json_option

A_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--step", type=click.IntRange(min=0), help="Which checkpoint.  [default: the newest]")
@click.option("--out", type=A_FILE, help="Where to.  [default: RUN/card/README.md]")
@click.option("--notes", type=A_FILE, help="Your own words, in Markdown.  [default: RUN/card/notes.md]")
@click.option("--license", "license_id", metavar="ID", help="Where no file of the base model says it.")
@click.option("--base-model", metavar="ID", help="Name on the Hub of a base model read from a folder.")
@click.option("--language", metavar="CODE", multiple=True, help="Of the conversations; may be repeated.")
@click.option(
    "--grid-intensity", type=click.FloatRange(min=0), metavar="G/KWH", help="For grams of CO2 equivalent."
)
@click.option("--pue", type=click.FloatRange(min=1), help="Power usage effectiveness of the data centre.")
@json_option
def card(
    run: Path,
    step: int | None,
    out: Path | None,
    notes: Path | None,
    license_id: str | None,
    base_model: str | None,
    language: tuple[str, ...],
    grid_intensity: float | None,
    pue: float | None,
    as_json: bool,
) -> None:
    """Write the model card of a checkpoint, from what the run has recorded.

    Figures come from the run's own files; what was not measured is said to be so. What the options from
    --notes on state is kept, and stands in every later card of the run too.

    \b
    Example:
      gemfit card runs/first
      gemfit card runs/first --step 200 --notes notes.md --language en --grid-intensity 350
    """
    RunDir.open(run)
    require_train_extra("card")
    arguments = [str(run)]
    for option, value in (
        ("--step", step),
        ("--out", out),
        ("--notes", notes),
        ("--license", license_id),
        ("--base-model", base_model),
        *(("--language", code) for code in language),
        ("--grid-intensity", grid_intensity),
        ("--pue", pue),
    ):
        arguments += [option, str(value)] if value is not None else []
    raise click.exceptions.Exit(run_module("gemfit.modelcard.card", arguments + ["--json"] * as_json))
