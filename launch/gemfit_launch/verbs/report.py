"""``gemfit report``."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.output.report_facts import read_facts
from gemfit_launch.predict.gpu_specs import find_gpu
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, gpu_option, json_option, price_option


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--out", type=RUN_FOLDER, help="Output folder.  [default: RUN/report]")
@click.option("--compare", type=RUN_FOLDER, multiple=True, metavar="RUN", help="Another run; repeatable.")
@gpu_option(required=False)
@click.option("--open", "opened", is_flag=True, help="Open it in the browser.")
@price_option
@json_option
def report(
    run: Path,
    out: Path | None,
    compare: tuple[Path, ...],
    gpu: str | None,
    opened: bool,
    price: float | None,
    as_json: bool,
) -> None:
    """Write an HTML report.

    One self-contained page, and its pictures: curves over all attempts, speed, memory, data, evaluation,
    audit, plan and versions. What was not measured yet is listed with the command that measures it.
    --gpu names the kind of GPU where neither run nor site does.

    \b
    Example:
      gemfit report runs/first --open
      gemfit report runs/first --gpu h100-80 --price 2.50
      gemfit report runs/first --compare runs/second --compare runs/third
    """
    runs = [RunDir.open(folder) for folder in (run, *compare)]
    spec = find_gpu(gpu) if gpu is not None else None
    require_train_extra("report")
    folder = out or runs[0].report
    facts = [read_facts(one, spec, price).model_dump_json() for one in runs]
    argv = to_argv({"out": folder, "facts": facts, "json": as_json})
    code = run_module("gemfit.report", [*(str(one.root) for one in runs), *argv])
    if opened and code == ExitCode.DONE:
        webbrowser.open((folder / "index.html").resolve().as_uri())
    raise click.exceptions.Exit(code)
