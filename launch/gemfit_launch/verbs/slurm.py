"""``gemfit submit``, ``resume`` and ``cancel``: runs as Slurm jobs."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit.schemas.pack_job import find_files
from gemfit.schemas.plan import Plan
from gemfit_launch.output.plan import show_plan, show_summary
from gemfit_launch.output.tables import console
from gemfit_launch.planning.replan import changed_parts, refuse_complete, refuse_other_training, replan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.runs.status import default_folder
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.cluster.cancel import cancel_jobs, refuse_queued
from gemfit_launch.slurm.records.job_files import JobFiles, Submission
from gemfit_launch.slurm.submit.placement import Placing, ranks_at
from gemfit_launch.slurm.submit.show import show_scripts
from gemfit_launch.slurm.submit.submit import Prepared, render_scripts, submit_all
from gemfit_launch.slurm.submit.submit import submit as submit_run
from gemfit_launch.slurm.submit.sweep import Variant, variants
from gemfit_launch.verbs._options import RUN_FOLDER, json_option, request_options
from gemfit_launch.verbs._slurm_options import after_option, placing_options


@click.command()
@request_options()
@placing_options(site_required=True)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder.  [default: runs/RECIPE-TIME]")
@after_option
@click.option(
    "--sweep",
    "sweeps",
    metavar="KEY=A,B",
    multiple=True,
    help="A run for each value, such as seed=1,2,3; repeated, for each combination.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, and submit nothing.")
@json_option
def submit(
    request: Request,
    placing: Placing,
    folder: Path | None,
    after: int | None,
    sweeps: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train as a Slurm job that comes back when it is preempted.

    Packs the data first, as a job of its own without a GPU, if that was not done. The code and the
    recipe are kept in the run folder, so a job that comes back is the one that was submitted. Tokens
    such as HF_TOKEN reach the job in the environment of this command, and stand in no file of it.

    \b
    Example:
      gemfit submit gemma3/1b-reference --site gpu-cluster --nodes 2 --data talks.jsonl --run runs/first
      gemfit submit gemma3/1b-reference --site gpu-cluster --site-set time=2:00:00 --data chat.jsonl --dry-run
      gemfit submit gemma3/1b-reference --site gpu-cluster --data chat.jsonl --run runs/lr --sweep seed=1,2,3
    """
    root = folder or default_folder(request)
    jobs = [_prepare(variant, placing, root) for variant in variants(request, sweeps)]
    if dry_run:
        for job in jobs:
            options = [*job.request.arguments(), *placing.arguments(), "--run", str(job.root)]
            show_plan(job.plan, job.request.name, ["gemfit", "submit", *options])
            show_scripts(job.scripts)
        return
    for job in jobs:
        RunDir.refuse_used(job.root)
        if not job.plan.recipe.data.mixture:
            find_files(None)  # says how to name the data
    _say_what_is_hidden()
    if not as_json:
        show_summary(console(), jobs[0].plan, request.name)
    shown = []
    for job, submission in submit_all(jobs, Path.cwd(), after):
        if not as_json:
            _report(job.root, submission)  # at once: Slurm may refuse the next one
        shown.append({"run": str(job.root), **submission.model_dump(mode="json")})
    if as_json:
        click.echo(json.dumps(shown if sweeps else shown[0], indent=2))


@click.command()
@click.argument("run", type=RUN_FOLDER)
@request_options(required=False, with_recipe=False)
@placing_options(site_required=False)
@click.option(
    "--allow-changed",
    "allowed_changes",
    metavar="KEY",
    multiple=True,
    help="Resume although this part of what is trained changes, such as optim.learning_rate or seed.",
)
@after_option
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, and submit nothing.")
@json_option
def resume(
    run: Path,
    request: Request,
    placing: Placing,
    allowed_changes: tuple[str, ...],
    after: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Go on with a run as a new Slurm job, as before or elsewhere.

    Fewer or more nodes take the same rows in each step. What would change the training is refused unless
    allowed. The job runs the code as it is now. On this machine: `gemfit run --resume RUN`.

    \b
    Example:
      gemfit resume runs/first
      gemfit resume runs/first --nodes 1 --site preemptible-cluster
    """
    run_dir = RunDir.open(run)
    old = run_dir.plan()
    plan = _planned_again(run_dir, old, request, placing, allowed_changes)
    folder = _folder(run_dir)
    scripts = render_scripts(plan, run, folder)
    if dry_run:
        show_scripts(scripts)
        return
    refuse_queued(run_dir)
    refuse_complete(run_dir, plan)
    _say_what_is_hidden()
    with run_dir.hold():
        run_dir.adopt(plan)
        run_dir.stop_file.unlink(missing_ok=True)
    for change in changed_parts(old, plan):
        click.echo(change, err=as_json)
    submission = submit_run(run_dir, scripts, folder, _ids(after), allowed_changes)
    if as_json:
        click.echo(json.dumps({"run": str(run), **submission.model_dump(mode="json")}, indent=2))
    else:
        _report(run, submission)


@click.command()
@click.argument("run", type=RUN_FOLDER)
def cancel(run: Path) -> None:
    """End the Slurm job of a run at once, and do not let it come back.

    It goes back to its last checkpoint; `gemfit stop` saves first.

    \b
    Example:
      gemfit cancel runs/first
    """
    cancelled = cancel_jobs(RunDir.open(run))
    for job in cancelled:
        click.echo(f"{run}: job {job} is cancelled")
    if not cancelled:
        click.echo(f"{run}: has no job that waits or runs")


def _prepare(variant: Variant, placing: Placing, root: Path) -> Prepared:
    """The plan and the scripts of one run; writes nothing."""
    site, recipe = placing.site(), variant.request.recipe()
    plan = resolve_plan(recipe, ranks_at(site, placing.nodes or 1), site=site)
    place = root.with_name(f"{root.name}{variant.suffix}")
    return Prepared(place, variant.request, plan, render_scripts(plan, place, Path.cwd()))


def _planned_again(
    run: RunDir, old: Plan, request: Request, placing: Placing, allowed_changes: tuple[str, ...]
) -> Plan:
    site = placing.site(old.site)
    nodes = placing.nodes or old.topology.nodes
    plan = replan(old, request, ranks_at(site, nodes), str(run.plan_file), site)
    refuse_other_training(run.root, old, plan, allowed_changes)
    return plan


def _folder(run: RunDir) -> Path:
    """Where relative names in the recipe begin: as at first, else here."""
    newest = JobFiles(run).newest()
    return Path(newest.folder) if newest is not None else Path.cwd()


def _ids(after: int | None) -> list[int]:
    return [] if after is None else [after]


def _say_what_is_hidden() -> None:
    if names := commands.hidden_options(os.environ):
        click.echo(f"not passed on, because Slurm would obey it: {', '.join(names)}", err=True)


def _report(root: Path, submission: Submission) -> None:
    if submission.pack_job is not None:
        click.echo(f"packing: job {submission.pack_job}, for which the training waits")
    click.echo(f"job: {submission.job}")
    click.echo(f"run folder: {shlex.quote(str(root))}")
    click.echo(f"watch it: gemfit status {shlex.quote(str(root))}")
