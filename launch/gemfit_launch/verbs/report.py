"""``gemfit report``."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit_launch.output.report_facts import read_facts
from gemfit_launch.predict.gpu_specs import find_card
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, card_option, json_option


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--out", type=RUN_FOLDER, help="Folder of the page and the pictures.  [default: RUN/report]")
@click.option(
    "--compare", type=RUN_FOLDER, multiple=True, metavar="RUN", help="Another run; may be repeated."
)
@card_option(required=False)
@click.option("--open", "opened", is_flag=True, help="Show it in the browser.")
@json_option
def report(
    run: Path, out: Path | None, compare: tuple[Path, ...], card: str | None, opened: bool, as_json: bool
) -> None:
    """Write a run as one HTML page that needs no network, and as pictures.

    Curves over all attempts, speed, memory, data, evaluation, audit, plan and versions. What was not measured
    yet is named with the command that does. --gpu names the card where neither run nor site does.

    \b
    Example:
      gemfit report runs/first --open
      gemfit report runs/first --compare runs/second --compare runs/third
    """
    runs = [RunDir.open(folder) for folder in (run, *compare)]
    known = find_card(card) if card is not None else None
    require_train_extra("report")
    folder = out or runs[0].report
    arguments = [str(one.root) for one in runs] + ["--out", str(folder)]
    for one in runs:
        arguments += ["--facts", read_facts(one, known).model_dump_json()]
    code = run_module("gemfit.report", arguments + ["--json"] * as_json)
    if opened and code == ExitCode.DONE:
        webbrowser.open((folder / "index.html").resolve().as_uri())
    raise click.exceptions.Exit(code)
