"""``gemfit eval``."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import Evaluation
from gemfit_launch.argv import to_argv
from gemfit_launch.output.evaluation import show_evaluation
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, checkpoint_option, json_option

COUNT = click.IntRange(min=1)
SHOWING = {"run", "show", "whole", "as_json"}
"""Parameters of the display; all others decide what is evaluated."""


@click.command("eval")
@click.argument("run", type=RUN_FOLDER)
@checkpoint_option(multiple=True, default="base and latest")
@click.option("--nproc", type=COUNT, default=1, show_default=True, help="Ranks on this machine.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--split", type=click.Choice(["validation", "train"]), default="validation", show_default=True)
@click.option("--rows", type=COUNT, help="Evaluate a random sample of rows.  [default: all]")
@click.option("--samples", type=click.IntRange(min=0), default=8, show_default=True, help="Sampled replies.")
@click.option("--max-new-tokens", type=COUNT, default=128, show_default=True, help="Longest reply.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 is greedy decoding.",
)
@click.option("--tasks", metavar="NAMES", help="Tasks of lm-evaluation-harness, comma-separated.")
@click.option("--limit", type=COUNT, help="Examples per task.  [default: all]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all sampling."
)
@click.option("--show", is_flag=True, help="Show earlier results, and evaluate nothing.")
@click.option("--all", "whole", is_flag=True, help="Show every sample in full.")
@json_option
def eval_(
    run: Path,
    checkpoints: tuple[str, ...],
    tasks: str | None,
    limit: int | None,
    show: bool,
    whole: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Evaluate checkpoints on the validation split.

    Loss, perplexity and token accuracy, with confidence intervals, by role and by turn, and sampled
    replies. Results on the same conversations with the same settings accumulate in RUN/evaluation.

    \b
    Example:
      gemfit eval runs/first
      gemfit eval runs/first --checkpoint base --checkpoint best --nproc 2
      gemfit eval runs/first --show --all
    """
    run_dir = RunDir.open(run)
    if limit is not None and not tasks:
        raise UserError("--limit: has no effect without --tasks; for fewer validation rows use --rows")
    if show:
        _check_no_evaluation_options()
    else:
        require_train_extra("eval")
        argv = to_argv({"checkpoint": checkpoints, **options, "tasks": tasks, "limit": limit})
        code = run_module("gemfit.evaluate", [str(run), *argv])
        if code != ExitCode.DONE:
            raise click.exceptions.Exit(code)
    _print(run_dir, whole=whole, as_json=as_json)


def _check_no_evaluation_options() -> None:
    """``UserError`` for options of the evaluation, which have no effect with --show."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in SHOWING
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UserError(
            f"--show evaluates nothing, so {', '.join(given)} has no effect; leave one of them out"
        )


def _print(run: RunDir, *, whole: bool, as_json: bool) -> None:
    if not run.evaluation_file.is_file():
        raise UserError(f"{run.root}: was not evaluated yet; leave --show out")
    evaluation = Evaluation.read(run.evaluation_file)
    if as_json:
        click.echo(evaluation.to_json(), nl=False)
    else:
        show_evaluation(evaluation, whole=whole)
