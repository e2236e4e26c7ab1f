"""``gemfit audit``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import FILE, RUN_FOLDER, checkpoint_option, json_option


@click.command()
@click.argument("run", type=RUN_FOLDER, required=False)
@checkpoint_option(multiple=True, default="base and latest")
@click.option("--suite", multiple=True, help="One of --list; repeatable.  [default: all]")
@click.option("--prompts", type=FILE, metavar="JSONL", help="Prompts of your own, with expectations.")
@click.option("--judge", metavar="COMMAND", help="Reads replies as JSON lines and answers with scores.")
@click.option("--judge-timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS")
@click.option("--limit", type=click.IntRange(min=1), help="Prompts per suite, for a quick look.")
@click.option("--system", metavar="TEXT", help="System message.  [default: as in the data]")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest reply.  [default: 96]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Prompts per batch.  [default: 8]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of sampling and of intervals.")
@click.option(
    "--fail-on", type=click.Choice(["fail", "warn"]), help="Exit with 1 on findings this severe or worse."
)
@click.option("--list", "listing", is_flag=True, help="List the suites and exit.")
@json_option
def audit(
    run: Path | None, checkpoints: tuple[str, ...], listing: bool, as_json: bool, **options: object
) -> None:
    """Run safety prompt suites.

    Crisis messages, diagnoses, attacks on the system prompt, differences between demographic groups,
    stability and memorized training data, for the base model and for checkpoints. Writes
    RUN/audit/audit.json, and audit.md with every prompt and reply.

    Exit status: 0 also with findings, unless --fail-on is given.

    \b
    Example:
      gemfit audit runs/first
      gemfit audit runs/first --checkpoint base --checkpoint best --suite crisis --fail-on fail
      gemfit audit runs/first --prompts mine.jsonl --judge 'python judge.py'
    """
    if run is None and not listing:
        raise UserError("gemfit audit needs the folder of a run, or --list")
    require_train_extra("audit")
    where = ["--list"] if run is None or listing else [str(RunDir.open(run).root)]
    argv = to_argv({"checkpoint": checkpoints, **options, "json": as_json})
    raise click.exceptions.Exit(run_module("gemfit.audit", [*where, *argv]))
