"""``gemfit run``."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit_launch.output.plan import show_plan, show_summary
from gemfit_launch.output.progress import watching
from gemfit_launch.output.tables import console
from gemfit_launch.planning.replan import changed_parts, refuse_complete, refuse_other_training, replan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks, count_gpus, refuse_absent_gpus
from gemfit_launch.runs.ensure_pack import PackFailed, ensure_pack
from gemfit_launch.runs.exit_report import conclude
from gemfit_launch.runs.local import carry_out
from gemfit_launch.runs.python_module import require_train_extra
from gemfit_launch.runs.status import RUNS
from gemfit_launch.verbs._options import RUN_FOLDER, ranks_options, request_options


@click.command()
@request_options(required=False)
@ranks_options(with_nodes=False)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder.  [default: runs/RECIPE-TIME]")
@click.option("--resume", type=RUN_FOLDER, metavar="RUN", help="Continue a run, here or as options say.")
@click.option(
    "--allow-changed",
    "allowed_changes",
    metavar="KEY",
    multiple=True,
    help="Resume although this part of what is trained changes, such as optim.learning_rate or seed.",
)
@click.option("--stop-at", type=click.IntRange(min=1), metavar="STEP", help="Save and stop after this step.")
@click.option("--dry-run", is_flag=True, help="Show what would be executed, and execute nothing.")
def run(
    request: Request,
    ranks: Ranks,
    folder: Path | None,
    resume: Path | None,
    allowed_changes: tuple[str, ...],
    stop_at: int | None,
    dry_run: bool,
) -> None:
    """Train here, exactly as planned.

    Packs the data first if that was not done. Ctrl-C saves and stops; the run can then be resumed, on
    other ranks and with another strategy too. What would change the training is refused unless allowed.
    Exit status: 0 completed, 75 stopped and resumable, 1 failed, 2 a mistake in the input.

    \b
    Example:
      gemfit run debug/cpu-tiny --data talks.jsonl --nproc 2 --strategy fsdp2 --run runs/first
      gemfit run --resume runs/first
      gemfit run --resume runs/first --nproc 3 --strategy zero3
    """
    if bool(request.name) == (resume is not None):
        raise click.UsageError("give either a RECIPE or --resume RUN")
    if resume is not None and folder is not None:
        raise click.UsageError("--resume RUN names the folder; leave out --run")
    if resume is None and allowed_changes:
        raise click.UsageError("--allow-changed is about a run that is resumed")
    if resume is None:
        prepared = _new(request, ranks, folder, dry_run)
    else:
        prepared = _old(resume, request, ranks, allowed_changes, dry_run)
    if prepared is not None:
        raise click.exceptions.Exit(_train(*prepared, stop_at, allowed_changes))


def _new(request: Request, ranks: Ranks, folder: Path | None, dry_run: bool) -> tuple[RunDir, Plan] | None:
    """A new run folder and its exact plan; ``None`` after a dry run."""
    recipe = request.recipe()
    folder = folder or RUNS / f"{request.name_for_folder}-{datetime.now():%Y%m%d-%H%M%S}"
    estimate = resolve_plan(recipe, ranks)
    command = ["gemfit", "run", *request.arguments(), *ranks.arguments(), "--run", str(folder)]
    if dry_run:
        show_plan(estimate, request.name, command)
        return None
    refuse_absent_gpus(estimate.topology, visible_gpus=count_gpus())
    require_train_extra("run")
    RunDir.refuse_used(folder)
    _pack(estimate)
    plan = resolve_plan(recipe, ranks)
    assert plan.steps.rows_are == "packed", "the pack has just been built"
    show_summary(console(), plan, request.name)
    return RunDir.create(folder, plan), plan


def _old(
    root: Path, request: Request, ranks: Ranks, allowed_changes: tuple[str, ...], dry_run: bool
) -> tuple[RunDir, Plan] | None:
    """An existing run that can go on, and the plan for that; ``None`` after a dry run."""
    run_dir = RunDir.open(root)
    old = run_dir.plan()
    plan = replan(old, request, ranks, str(run_dir.plan_file))
    refuse_other_training(root, old, plan, allowed_changes)
    if dry_run:
        allowed = [part for key in allowed_changes for part in ("--allow-changed", key)]
        options = [*request.arguments(), *ranks.arguments(), *allowed]
        show_plan(plan, str(root), ["gemfit", "run", "--resume", str(root), *options])
        return None
    refuse_complete(run_dir, plan)
    refuse_absent_gpus(plan.topology, visible_gpus=count_gpus())
    require_train_extra("run")
    _pack(plan)
    if plan.steps.rows_are == "estimated":  # other rows than before, which have just been packed
        plan = replan(old, request, ranks, str(run_dir.plan_file))
    for change in changed_parts(old, plan):
        click.echo(change)
    return run_dir, plan


def _pack(plan: Plan) -> None:
    """Build the pack of the plan unless it is there; data that has changed is refused."""
    if plan.pack.folder and Path(plan.pack.folder, "manifest.json").is_file():
        return
    job = make_pack_job(plan.recipe)
    if job.fingerprint != plan.pack.fingerprint:
        raise UserError(
            f"{plan.pack.folder}: the packed data is gone, and {plan.recipe.data.label} has changed since; "
            "bring the old data back, or start a new run"
        )
    try:
        ensure_pack(job, Path(plan.pack.folder), force=False, say=click.echo)
    except PackFailed as error:
        raise click.exceptions.Exit(error.code) from None


def _train(run_dir: RunDir, plan: Plan, stop_at: int | None, allowed_changes: tuple[str, ...]) -> ExitCode:
    click.echo(f"run folder: {shlex.quote(str(run_dir.root))}")
    with watching(plan.steps.total) as watch:
        outcome = carry_out(run_dir, plan, watch, stop_at=stop_at, allowed_changes=allowed_changes)
    ending = conclude(run_dir, outcome)
    click.echo(ending.text, err=ending.code not in (ExitCode.DONE, ExitCode.STOPPED))
    return ending.code
