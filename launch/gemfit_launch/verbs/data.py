"""``gemfit data``: inspect, stats, verify and blame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import FILE, RUN_FOLDER, checkpoint_option, json_option

PACK = click.argument("pack", type=RUN_FOLDER)


@click.group()
def data() -> None:
    """Inspect a pack and trained steps.

    PACK is the folder of a pack, as `gemfit pack` prints it, or a run, which names its pack.

    \b
    Example:
      gemfit data inspect runs/first --row 7
      gemfit data stats runs/first --plot pack.png
      gemfit data verify runs/first
      gemfit data blame runs/first --worst 3
    """


@data.command()
@PACK
@click.option("--row", metavar="ROWS", default="0", show_default=True, help="A row, 0-9, or all.")
@click.option("--split", type=click.Choice(["train", "validation"]), default="train", show_default=True)
@click.option("--document", type=click.IntRange(min=0), help="All chunks of one conversation.")
@click.option("--all", "whole", is_flag=True, help="Show long turns in full, in a pager.")
@click.option("--no-color", is_flag=True, help="Mark trained tokens with brackets instead.")
@json_option
def inspect(
    pack: Path, row: str, split: str, document: int | None, whole: bool, no_color: bool, as_json: bool
) -> None:
    """Print packed rows with roles, trained tokens and source lines.

    With --json one row per line, with each token and its position in its conversation.

    \b
    Example:
      gemfit data inspect runs/first --row 7
      gemfit data inspect runs/first --document 12 --all
      gemfit data inspect runs/first --row all --json > rows.jsonl
    """
    rows = {"row": row} if document is None else {"document": document}
    options = {"split": split, **rows, "all": whole, "no_color": no_color, "json": as_json}
    _run("inspect", pack, options)


@data.command()
@PACK
@click.option("--plot", type=FILE, metavar="PNG", help="Plot them.")
@json_option
def stats(pack: Path, plot: Path | None, as_json: bool) -> None:
    """Show lengths, fill, tokens per source and role, and token accounting.

    Exit status: 1 where input tokens are not the sum of packed and dropped tokens.

    \b
    Example:
      gemfit data stats runs/first --plot pack.png
    """
    _run("stats", pack, {"plot": plot, "json": as_json})


@data.command()
@PACK
@json_option
def verify(pack: Path, as_json: bool) -> None:
    """Verify digests, rows and token sums of a whole pack.

    \b
    Example:
      gemfit data verify runs/first
    """
    _run("verify", pack, {"json": as_json})


@data.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--step", type=click.IntRange(min=1), multiple=True, help="A step; repeatable.")
@click.option("--worst", type=click.IntRange(min=1), metavar="K", help="The K steps of unusually high loss.")
@checkpoint_option()
@json_option
def blame(run: Path, step: tuple[int, ...], worst: int | None, checkpoint: str, as_json: bool) -> None:
    """Name the conversations that a step trained.

    Each with its file and line, and its loss with a checkpoint of RUN, highest first. The worst steps are
    those whose loss exceeds the median of the steps around them most.

    \b
    Example:
      gemfit data blame runs/first --worst 3
      gemfit data blame runs/first --step 1200 --checkpoint 1000
    """
    if bool(step) == (worst is not None):
        raise click.UsageError("give either --step or --worst")
    opened = RunDir.open(run)
    _pack_folder(run)
    require_train_extra("data blame")
    argv = to_argv({"step": step, "worst": worst, "checkpoint": checkpoint, "json": as_json})
    raise click.exceptions.Exit(run_module("gemfit.evaluate.blame", [str(opened.root), *argv]))


def _run(verb: str, pack: Path, options: Mapping[str, object]) -> None:
    """Run the verb in a process that may import numpy, and exit with its status."""
    folder = _pack_folder(pack)
    require_train_extra(f"data {verb}")
    argv = [verb, str(folder), *to_argv(options)]
    raise click.exceptions.Exit(run_module("gemfit.data.inspect", argv))


def _pack_folder(path: Path) -> Path:
    """``path`` itself, or the pack of the run that it is."""
    if (path / "manifest.json").is_file():
        return path
    if not RunDir(path).plan_file.is_file():
        raise UserError(
            f"{path}: is neither a pack (no manifest.json) nor a run (no plan.json); "
            "`gemfit pack` prints the folder of a pack"
        )
    # Absolute: a name that begins with a dash would be an option.
    folder = Path(RunDir.open(path).plan().pack.folder).absolute()
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{path}: its pack {folder} does not exist (any more); build it with `gemfit pack`")
    return folder
