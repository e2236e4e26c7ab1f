"""``gemfit run``."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit.packing import make_pack_job
from gemfit.plan import Plan
from gemfit.rundir import RunDir
from gemfit_launch.child import require_train_extra
from gemfit_launch.conclusion import conclude
from gemfit_launch.local import carry_out
from gemfit_launch.options import RUN_FOLDER, ranks_options, request_options
from gemfit_launch.packer import PackFailed, ensure_pack
from gemfit_launch.planview import show_plan, show_summary
from gemfit_launch.progress import watching
from gemfit_launch.report import console
from gemfit_launch.request import Request
from gemfit_launch.resolve import resolve_plan
from gemfit_launch.runstatus import RUNS
from gemfit_launch.topology import Ranks, count_gpus, refuse_absent_gpus


@click.command()
@request_options(required=False)
@ranks_options(with_nodes=False)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder.  [default: runs/RECIPE-TIME]")
@click.option("--resume", type=RUN_FOLDER, metavar="RUN", help="Continue a run with its own plan.")
@click.option("--stop-at", type=click.IntRange(min=1), metavar="STEP", help="Save and stop after this step.")
@click.option("--dry-run", is_flag=True, help="Show what would be executed, and execute nothing.")
def run(
    request: Request | None,
    ranks: Ranks,
    folder: Path | None,
    resume: Path | None,
    stop_at: int | None,
    dry_run: bool,
) -> None:
    """Train here, exactly as planned.

    Packs the data first if that was not done. Ctrl-C saves and stops; the run can then be resumed.
    Exit status: 0 completed, 75 stopped and resumable, 1 failed, 2 a mistake in the input.

    \b
    Example:
      gemfit run debug/cpu-tiny --data talks.jsonl --nproc 2 --strategy fsdp2 --run runs/first
      gemfit run --resume runs/first
    """
    if (request is None) == (resume is None):
        raise click.UsageError("give either a RECIPE or --resume RUN")
    if request is not None:
        prepared = _new(request, ranks, folder, dry_run)
    else:
        assert resume is not None, "one of the two is given"
        prepared = _old(resume, ranks, folder, dry_run)
    if prepared is not None:
        raise click.exceptions.Exit(_train(prepared, stop_at))


def _new(request: Request, ranks: Ranks, folder: Path | None, dry_run: bool) -> RunDir | None:
    """A new run folder with an exact plan; ``None`` after a dry run."""
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
    return RunDir.create(folder, plan)


def _old(root: Path, ranks: Ranks, folder: Path | None, dry_run: bool) -> RunDir | None:
    """An existing run that can go on; ``None`` after a dry run."""
    if folder is not None or ranks != Ranks():
        raise click.UsageError("--resume continues a run as it was planned; give no other option")
    run_dir = RunDir.open(root)
    plan, verdict = run_dir.plan(), run_dir.verdict()
    if dry_run:
        show_plan(plan, str(root), ["gemfit", "run", "--resume", str(root)])
        return None
    if verdict is not None and verdict.outcome == "completed":
        raise UserError(f"{root}: is complete ({plan.steps.total} steps); there is nothing to resume")
    refuse_absent_gpus(plan.topology, visible_gpus=count_gpus())
    require_train_extra("run")
    _pack(plan)
    return run_dir


def _pack(plan: Plan) -> None:
    """Build the pack of the plan unless it is there; data that has changed is refused."""
    if plan.pack.folder and Path(plan.pack.folder, "manifest.json").is_file():
        return
    job = make_pack_job(plan.recipe)
    if job.fingerprint != plan.pack.fingerprint:
        raise UserError(
            f"{plan.pack.folder}: the packed data is gone, and {plan.recipe.data.source} has changed since; "
            "bring the old data back, or start a new run"
        )
    try:
        ensure_pack(job, Path(plan.pack.folder), force=False, say=click.echo)
    except PackFailed as error:
        raise click.exceptions.Exit(error.code) from None


def _train(run_dir: RunDir, stop_at: int | None) -> ExitCode:
    plan = run_dir.plan()
    click.echo(f"run folder: {shlex.quote(str(run_dir.root))}")
    with watching(plan.steps.total) as watch:
        outcome = carry_out(run_dir, plan, watch, stop_at=stop_at)
    ending = conclude(run_dir, outcome)
    click.echo(ending.text, err=ending.code not in (ExitCode.DONE, ExitCode.STOPPED))
    return ending.code
