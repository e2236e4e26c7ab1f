"""``gemfit eval``."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.evaluation import Evaluation
from gemfit_launch.output.evaluation import show_evaluation
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, json_option

COUNT = click.IntRange(min=1)
SHOWING = {"run", "show", "whole", "as_json"}
"""Parameters that say what is shown, and not what is measured."""


@click.command("eval")
@click.argument("run", type=RUN_FOLDER)
@click.option(
    "--subject",
    "subjects",
    metavar="MODEL",
    multiple=True,
    help="base, latest, best, a step, or a model folder; may be repeated.  [default: base and latest]",
)
@click.option("--nproc", type=COUNT, default=1, show_default=True, help="Ranks on this machine.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--split", type=click.Choice(["validation", "train"]), default="validation", show_default=True)
@click.option("--rows", type=COUNT, help="Measure this many rows, drawn at random.  [default: all]")
@click.option(
    "--samples", type=click.IntRange(min=0), default=8, show_default=True, help="Replies to compare."
)
@click.option("--max-new-tokens", type=COUNT, default=128, show_default=True, help="Longest reply.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Of the replies."
)
@click.option("--tasks", metavar="NAMES", help="Of lm-evaluation-harness: names or YAML files, with commas.")
@click.option("--limit", type=COUNT, help="Examples of each task.  [default: all]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn."
)
@click.option("--show", is_flag=True, help="Show what was measured before, and measure nothing.")
@click.option("--all", "whole", is_flag=True, help="Show every sample in full.")
@json_option
def eval_(
    run: Path,
    subjects: tuple[str, ...],
    tasks: str | None,
    rows: int | None,
    limit: int | None,
    show: bool,
    whole: bool,
    as_json: bool,
    **values: object,
) -> None:
    """Measure a run's models on its held-out conversations, and let them speak.

    Loss, perplexity and token accuracy, with intervals, by role and by turn; figures of the same
    conversations and settings are kept in RUN/evaluation and shown together.

    \b
    Example:
      gemfit eval runs/first
      gemfit eval runs/first --subject base --subject best --nproc 2
      gemfit eval runs/first --show --all
    """
    run_dir = RunDir.open(run)
    if limit is not None and not tasks:
        raise UserError("--limit: has no effect without --tasks; for fewer held-out rows use --rows")
    if show:
        _refuse_measuring_options()
    else:
        require_train_extra("eval")
        options = {**values, "tasks": tasks, "rows": rows, "limit": limit}
        arguments = [part for name in subjects for part in ("--subject", name)]
        for name, value in options.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
        code = run_module("gemfit.evaluate", [str(run), *arguments])
        if code != ExitCode.DONE:
            raise click.exceptions.Exit(code)
    _print(run_dir, whole=whole, as_json=as_json)


def _refuse_measuring_options() -> None:
    """What would have an effect on a measurement has none on what is shown of an earlier one."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in SHOWING
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UserError(
            f"--show measures nothing, so {', '.join(given)} has no effect; leave one of them out"
        )


def _print(run: RunDir, *, whole: bool, as_json: bool) -> None:
    if not run.evaluation_file.is_file():
        raise UserError(f"{run.root}: was not evaluated yet; leave --show out")
    evaluation = Evaluation.read(run.evaluation_file)
    if as_json:
        click.echo(evaluation.to_json(), nl=False)
    else:
        show_evaluation(evaluation, whole=whole)
