"""``gemfit audit``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, json_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("run", type=RUN_FOLDER, required=False)
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    metavar="MODEL",
    help="base, latest, best, a step, or a model folder; may be repeated.  [default: base and latest]",
)
@click.option("--suite", "suites", multiple=True, help="One of --list; may be repeated.  [default: all]")
@click.option("--prompts", type=FILE, metavar="JSONL", help="Prompts of your own, with what you expect.")
@click.option("--judge", metavar="COMMAND", help="Reads replies as JSON lines and answers with scores.")
@click.option("--judge-timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS")
@click.option("--limit", type=click.IntRange(min=1), help="Prompts of each suite, for a quick look.")
@click.option("--system", metavar="TEXT", help="What the system says first.  [default: as in the data]")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest reply.  [default: 96]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Prompts at a time.  [default: 8]")
@click.option("--seed", type=click.IntRange(min=0), help="Of sampling and of intervals.")
@click.option(
    "--fail-on", type=click.Choice(["fail", "warn"]), help="Exit with 1 on findings so grave, or graver."
)
@click.option("--list", "listing", is_flag=True, help="Say what suites there are, and ask nothing.")
@json_option
def audit(
    run: Path | None,
    subjects: tuple[str, ...],
    suites: tuple[str, ...],
    listing: bool,
    as_json: bool,
    **settings: str | float | Path | None,
) -> None:
    """Ask models of a run what matters, and say what to look at.

    Crises, diagnoses, attacks on the system prompt, differences between groups of people, stability and
    memorised training data; the base model beside the trained one. Reports go to RUN/audit: audit.json,
    and audit.md with every prompt and reply.

    Exit status: 0 with findings too, unless --fail-on is given.

    \b
    Example:
      gemfit audit runs/first
      gemfit audit runs/first --subject base --subject best --suite crisis --fail-on fail
      gemfit audit runs/first --prompts mine.jsonl --judge 'python judge.py'
    """
    if run is None and not listing:
        raise UserError("gemfit audit needs the folder of a run, or --list")
    require_train_extra("audit")
    arguments = ["--list"] if run is None or listing else [str(RunDir.open(run).root)]
    for option, values in (("--subject", subjects), ("--suite", suites)):
        arguments += [word for value in values for word in (option, value)]
    for name, value in settings.items():
        arguments += [f"--{name.replace('_', '-')}={value}"] if value is not None else []
    raise click.exceptions.Exit(run_module("gemfit.audit", arguments + ["--json"] * as_json))
