"""``gemfit push``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, json_option


@click.command()
@click.argument("runs", type=RUN_FOLDER, metavar="RUN...", nargs=-1, required=True)
@click.option("--repo", metavar="NAMESPACE/NAME", help="Where to.  [default: the recipe's hub.repo]")
@click.option("--step", metavar="STEP", help="Which checkpoint: a step, latest or best.  [default: latest]")
@click.option("--public", is_flag=True, help="For all to see, if the push makes the repository.")
@click.option("--message", metavar="TEXT", help="Of the commit.  [default: Step N]")
@click.option("--adapter", is_flag=True, help="Push a LoRA alone, not merged into its base model.")
@click.option("--multimodal", is_flag=True, help="Put the text back beside the base model's other parts.")
@click.option("--again", is_flag=True, help="Push a step that was pushed before, with its card as it is now.")
@click.option("--spooled", is_flag=True, help="Send what waits in the spools of runs, and nothing else.")
@click.option("--dry-run", is_flag=True, help="List the files and their sizes, and send nothing.")
@json_option
def push(
    runs: tuple[Path, ...],
    repo: str | None,
    step: str | None,
    public: bool,
    message: str | None,
    adapter: bool,
    multimodal: bool,
    again: bool,
    spooled: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Push a checkpoint, with its card, to the Hugging Face Hub.

    The repository is made if it is not there, and is then private. What cannot be sent now stays in the
    spool of the run. The token is that of `hf auth login`, or HF_TOKEN; HF_ENDPOINT names another Hub.
    Exit status: 0 sent, 75 something waits in the spool, 2 a mistake in the input.

    \b
    Example:
      gemfit push runs/first --repo me/first --step best
      gemfit push runs/first --repo me/first --dry-run
      gemfit push --spooled runs/first runs/second
    """
    words = [("--repo", repo), ("--step", step), ("--message", message)]
    flags = [("--public", public), ("--adapter", adapter), ("--multimodal", multimodal), ("--again", again)]
    given = [name for name, value in [*words, *flags] if value]
    if spooled and (given or dry_run):
        what = " and ".join(given or ["--dry-run"])
        raise click.UsageError(f"--spooled sends what was chosen before; leave out {what}")
    if len(runs) > 1 and not spooled:
        raise click.UsageError("push one RUN at a time; only --spooled takes several")
    for run in runs:
        RunDir.open(run)
    require_train_extra("push")
    arguments = [*map(str, runs), *["--spooled"] * spooled, *["--dry-run"] * dry_run, *["--json"] * as_json]
    # As one word, so that a message may begin with a dash.
    arguments += [f"{name}={value}" for name, value in words if value]
    arguments += [name for name, value in flags if value]
    raise click.exceptions.Exit(run_module("gemfit.publish.push", arguments))
