"""``gemfit run``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit_launch.argv import to_argv
from gemfit_launch.output.plan import show_plan, show_summary
from gemfit_launch.output.tables import console
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.this_machine import check_this_machine
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.python_module import require_train_extra
from gemfit_launch.runs.status import default_folder
from gemfit_launch.verbs._options import RUN_FOLDER, ranks_options, request_options
from gemfit_launch.verbs._train import pack_data, stop_at_option, train


@click.command()
@request_options()
@ranks_options(with_nodes=False)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder.  [default: runs/RECIPE-TIME]")
@stop_at_option
@click.option("--dry-run", is_flag=True, help="Show the plan and start nothing.")
def run(request: Request, ranks: Ranks, folder: Path | None, stop_at: int | None, dry_run: bool) -> None:
    """Train on this machine.

    Packs the data first if that was not done. Ctrl-C saves and stops; `gemfit resume` continues the run,
    on other ranks and with another strategy too.
    Exit status: 0 completed, 75 stopped and resumable, 1 failed, 2 invalid input.

    \b
    Example:
      gemfit run debug/cpu-tiny --data chat.jsonl --nproc 2 --strategy fsdp2 --run runs/first
    """
    recipe, folder = request.pinned_recipe(), folder or default_folder(request)
    estimate = resolve_plan(recipe, ranks)
    if dry_run:
        options = [*request.arguments(), *ranks.arguments(), *to_argv({"run": folder})]
        show_plan(estimate, request.name, ["gemfit", "run", *options])
        return
    check_this_machine(ranks, estimate)
    require_train_extra("run")
    RunDir.check_unused(folder)
    pack_data(estimate)
    plan = resolve_plan(recipe, ranks)
    assert plan.steps.rows_are == "packed", "the pack has just been built"
    show_summary(console(), plan, request.name)
    raise click.exceptions.Exit(train(RunDir.create(folder, plan), plan, stop_at))
