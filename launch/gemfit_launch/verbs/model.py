"""``gemfit export`` and ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, json_option


class Step(click.ParamType[int | str]):
    """The step of a checkpoint, or `best`: the one of lowest held-out loss."""

    name = "step"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return "best" if value == "best" else click.IntRange(min=0).convert(value, param, ctx)


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--step", type=Step(), help="Which checkpoint, or best.  [default: the newest]")
@click.option("--out", type=RUN_FOLDER, help="Where to.  [default: RUN/export]")
@click.option(
    "--multimodal",
    is_flag=True,
    help="Put the text back beside the vision tower of the base model (4b and larger).",
)
@json_option
def export(run: Path, step: int | str | None, out: Path | None, multimodal: bool, as_json: bool) -> None:
    """Turn a checkpoint into a Hugging Face model folder.

    It holds a text-only model, unless --multimodal.

    \b
    Example:
      gemfit export runs/first --step best
      gemfit export runs/first --step 200 --out models/kind
    """
    run_dir = RunDir.open(run)
    require_train_extra("export")
    arguments = [str(run), "--out", str(out or run_dir.export)]
    arguments += ["--step", str(step)] if step is not None else []
    arguments += ["--multimodal"] * multimodal
    raise click.exceptions.Exit(run_module("gemfit.export.export", arguments + ["--json"] * as_json))


@click.command()
@click.argument("model", type=RUN_FOLDER)
@click.argument("message")
@click.option("--system", metavar="TEXT", help="What the system says first.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest token.")
@click.option("--seed", type=click.IntRange(min=0), help="Of sampling.")
@json_option
def generate(
    model: Path,
    message: str,
    system: str | None,
    max_new_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Let a trained model answer one message.

    MODEL is a Hugging Face folder, or a run that was exported.

    \b
    Example:
      gemfit generate runs/first "I cannot sleep before exams."
    """
    folder = model_folder(model)
    require_train_extra("generate")
    arguments = [str(folder), "--message", message]
    for option, value in (
        ("--system", system),
        ("--max-new-tokens", max_new_tokens),
        ("--temperature", temperature),
        ("--seed", seed),
    ):
        arguments += [option, str(value)] if value is not None else []
    raise click.exceptions.Exit(run_module("gemfit.export.generate", arguments + ["--json"] * as_json))


def model_folder(path: Path) -> Path:
    """The folder with the weights: ``path`` itself, or the export of a run."""
    if (path / "config.json").is_file():
        return path
    if not RunDir(path).plan_file.is_file():
        raise UserError(f"{path}: is neither a model folder (no config.json) nor a run (no plan.json)")
    export = RunDir(path).export
    if not (export / "config.json").is_file():
        raise UserError(f"{path}: has no exported model yet; make it with `gemfit export {path}`")
    return export
