"""``gemfit data``: look into a pack."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, json_option

PACK = click.argument("pack", type=RUN_FOLDER)


@click.group()
def data() -> None:
    """Look into a pack: its rows, its figures, and the proof that it is sound.

    PACK is the folder of a pack, as `gemfit pack` prints it, or a run, which names its pack.

    \b
    Example:
      gemfit data inspect runs/first --row 7
      gemfit data stats runs/first --plot pack.png
      gemfit data verify runs/first
    """


@data.command()
@PACK
@click.option("--row", metavar="ROWS", default="0", show_default=True, help="A number, 0-9, or all.")
@click.option("--split", type=click.Choice(["train", "validation"]), default="train", show_default=True)
@click.option("--document", type=click.IntRange(min=0), help="All that the pack has of one conversation.")
@click.option("--all", "whole", is_flag=True, help="Show long turns in full, page by page.")
@click.option("--no-color", is_flag=True, help="Put brackets around what is trained instead.")
@json_option
def inspect(
    pack: Path, row: str, split: str, document: int | None, whole: bool, no_color: bool, as_json: bool
) -> None:
    """Show rows as a person would want them: who speaks, what is trained, where it came from.

    With --json one row a line, with each token and its position in its conversation.

    \b
    Example:
      gemfit data inspect runs/first --row 7
      gemfit data inspect runs/first --document 12 --all
      gemfit data inspect runs/first --row all --json > rows.jsonl
    """
    options = ["--split", split]
    options += ["--row", row] if document is None else ["--document", str(document)]
    options += ["--all"] * whole + ["--no-color"] * no_color
    _look("inspect", pack, options, as_json)


@data.command()
@PACK
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="PNG", help="Draw them.")
@json_option
def stats(pack: Path, plot: Path | None, as_json: bool) -> None:
    """Show lengths, fill, tokens per source and role, and what became of every token.

    Exit status: 1 where the tokens that came in are not those that are packed or lost.

    \b
    Example:
      gemfit data stats runs/first --plot pack.png
    """
    _look("stats", pack, ["--plot", str(plot)] if plot is not None else [], as_json)


@data.command()
@PACK
@json_option
def verify(pack: Path, as_json: bool) -> None:
    """Read a whole pack again and prove its digests, its rows and its sums.

    \b
    Example:
      gemfit data verify runs/first
    """
    _look("verify", pack, [], as_json)


def _look(verb: str, pack: Path, options: list[str], as_json: bool) -> None:
    """Hand over to the train extra, and end as it does."""
    folder = _pack_folder(pack)
    require_train_extra(f"data {verb}")
    arguments = [verb, str(folder), *options, *["--json"] * as_json]
    raise click.exceptions.Exit(run_module("gemfit.data.inspect", arguments))


def _pack_folder(path: Path) -> Path:
    """``path`` itself, or the pack of the run that it is."""
    if (path / "manifest.json").is_file():
        return path
    if not RunDir(path).plan_file.is_file():
        raise UserError(
            f"{path}: is neither a pack (no manifest.json) nor a run (no plan.json); "
            "`gemfit pack` prints the folder of a pack"
        )
    folder = Path(Plan.read(RunDir(path).plan_file).pack.folder)
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{path}: its pack {folder} is not there (any more); make it with `gemfit pack`")
    return folder
