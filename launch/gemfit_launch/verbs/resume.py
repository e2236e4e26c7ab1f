"""``gemfit resume``: on this machine, or as a Slurm job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from gemfit.control_characters import escape_control_characters
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit.schemas.training_identity import Change, changes, flatten
from gemfit_launch.argv import to_argv
from gemfit_launch.output.plan import show_plan
from gemfit_launch.planning.learning_rate import describe_rate_change
from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.planning.plan import foreign_launch_fields
from gemfit_launch.planning.replan import (
    changed_parts,
    check_not_complete,
    check_same_training,
    replan,
    replan_job,
)
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.skip_documents import SKIP_KEY, skip_documents
from gemfit_launch.planning.this_machine import check_this_machine
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.runs.python_module import ask_module, require_train_extra
from gemfit_launch.slurm.cluster.cancel import check_not_queued
from gemfit_launch.slurm.cluster.dependency import check_dependency
from gemfit_launch.slurm.cluster.job_limit import check_lead
from gemfit_launch.slurm.records.job_attempts import newest_step
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.slurm.submit.show import show_scripts
from gemfit_launch.slurm.submit.site_options import SiteOptions
from gemfit_launch.slurm.submit.submit import render_scripts, submit
from gemfit_launch.verbs._options import (
    RUN_FOLDER,
    allow_changed_option,
    json_option,
    ranks_options,
    request_options,
)
from gemfit_launch.verbs._slurm_options import after_option, slurm_options
from gemfit_launch.verbs._submission import report_submission, warn_hidden_options
from gemfit_launch.verbs._train import pack_data, stop_at_option, train

ONLY_HERE = ("nproc", "gpus", "device", "stop_at")
ONLY_JOB = ("site_settings", "nodes", "after", "as_json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumption:
    """A run and the changes of its next attempt."""

    run: RunDir
    request: Request
    allowed_changes: tuple[str, ...]
    dry_run: bool


@click.command()
@click.argument("run", type=RUN_FOLDER)
@request_options(required=False, with_recipe=False)
@ranks_options(with_nodes=False)
@stop_at_option
@slurm_options(site_required=False)
@after_option
@click.option("--here", is_flag=True, help="Resume on this machine, though RUN was a Slurm job.")
@allow_changed_option
@click.option(
    "--skip", type=click.IntRange(min=0), multiple=True, help="Train a document no more; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Show what would happen and start nothing.")
@json_option
def resume(
    run: Path,
    request: Request,
    allowed_changes: tuple[str, ...],
    skip: tuple[int, ...],
    dry_run: bool,
    ranks: Ranks,
    stop_at: int | None,
    site_options: SiteOptions,
    after: int | None,
    here: bool,
    as_json: bool,
) -> None:
    """Resume a run where it ran.

    A run that was a Slurm job is submitted again, with the code as it is now; any other continues on
    this machine. --site makes a job of a local run, --here continues a job on this machine. Ranks,
    nodes and strategy may change; what would change the training is refused unless allowed. --skip leaves
    out the loss of a conversation, by the number that `gemfit data blame` gives it.
    Exit status: 0 completed or submitted, 75 stopped and resumable, 1 failed, 2 invalid input.

    \b
    Example:
      gemfit resume runs/first
      gemfit resume runs/first --nproc 3 --strategy zero3
      gemfit resume runs/first --skip 12
      gemfit resume runs/job --nodes 1-4 --site preemptible-cluster
    """
    run_dir = RunDir.open(run)
    if skip:
        require_train_extra("resume --skip")
        # Absolute: a name that begins with a dash would be an option.
        pack = str(Path(run_dir.plan().pack.folder).absolute())
        left_out = ask_module("gemfit.data.inspect.skip", [pack, *map(str, skip)])
        click.echo(escape_control_characters(left_out), nl=False, err=as_json)
        request = skip_documents(run_dir.plan(), request, skip)
        allowed_changes = (*allowed_changes, SKIP_KEY)
    for name in foreign_launch_fields(run_dir.plan()):
        click.echo(
            f"{run_dir.plan_file}: its {name} is not what gemfit makes of its recipe; not used", err=True
        )
    wanted = Resumption(run=run_dir, request=request, allowed_changes=allowed_changes, dry_run=dry_run)
    if here and site_options.name is not None:
        raise click.UsageError("--here and --site contradict each other; give one of them")
    if site_options.name is not None or (not here and JobFiles(run_dir).newest() is not None):
        _check_absent(
            ONLY_HERE, f"{run} is resumed as a Slurm job; use --nodes or --site-set, or give --here"
        )
        _resume_job(wanted, site_options, after, as_json)
    else:
        _check_absent(ONLY_JOB, f"{run} is resumed on this machine; to make it a job give --site SITE")
        _resume_here(wanted, ranks, stop_at, here)


def _resume_here(wanted: Resumption, ranks: Ranks, stop_at: int | None, here: bool) -> None:
    run, old = wanted.run, wanted.run.plan()
    plan = replan(old, wanted.request, ranks, str(run.plan_file))
    check_same_training(run.root, old, plan, wanted.allowed_changes)
    if wanted.dry_run:
        rest = to_argv({"allow_changed": wanted.allowed_changes})
        options = [*to_argv({"here": here}), *wanted.request.arguments(), *ranks.arguments(), *rest]
        show_plan(plan, str(run.root), ["gemfit", "resume", str(run.root), *options])
        return
    check_not_complete(run, plan)
    check_this_machine(Ranks(device=plan.topology.device), plan)
    require_train_extra("resume")
    pack_data(plan)
    if plan.steps.rows_are == "estimated":  # the rows have changed and were packed just now
        plan = replan(old, wanted.request, ranks, str(run.plan_file))
    _show_changes(run, old, plan)
    raise click.exceptions.Exit(train(run, plan, stop_at, wanted.allowed_changes))


def _resume_job(wanted: Resumption, site_options: SiteOptions, after: int | None, as_json: bool) -> None:
    run, old = wanted.run, wanted.run.plan()
    options = site_options.after(JobFiles(run).newest())
    try:
        site = options.site()
    except UserError as error:
        if site_options.name is not None:
            raise
        raise UserError(
            f"{error}\nthe last job of this run was submitted with it; give --site SITE for another"
        ) from None
    nodes = site_options.nodes or NodeRange.of(old)
    plan = replan_job(old, wanted.request, nodes, str(run.plan_file), site)
    check_same_training(run.root, old, plan, wanted.allowed_changes)
    folder = _working_folder(run)
    scripts = render_scripts(plan, run.root, folder)
    if wanted.dry_run:
        show_scripts(scripts)
        return
    check_not_queued(run)
    check_not_complete(run, plan)
    check_dependency(after)
    check_lead(site)
    warn_hidden_options()
    _adopt(run, plan)
    _show_changes(run, old, plan, _site_changes(old.site, site), err=as_json)
    waits_for = [] if after is None else [after]
    submission = submit(run, scripts, folder, options, waits_for, wanted.allowed_changes)
    if as_json:
        click.echo(json.dumps({"run": str(run.root), **submission.model_dump(mode="json")}, indent=2))
    else:
        report_submission(run.root, submission)


def _show_changes(
    run: RunDir, old: Plan, new: Plan, site_changes: Sequence[Change] = (), *, err: bool = False
) -> None:
    for line in (*changed_parts(old, new), *site_changes, *describe_rate_change(old, new, newest_step(run))):
        click.echo(escape_control_characters(str(line)), err=err)


def _site_changes(old: Site | None, new: Site) -> list[Change]:
    """What another site, or a file that was edited since, changes for the job."""
    if old is None:
        return []
    was, now = (flatten(site.model_dump(mode="json"), "site") for site in (old, new))
    return changes(was, now)


def _adopt(run: RunDir, plan: Plan) -> None:
    with run.hold():
        run.adopt(plan)
        run.stop_file.unlink(missing_ok=True)


def _working_folder(run: RunDir) -> Path:
    """Folder to which relative paths in the recipe refer: that of the first submission, else this one."""
    newest = JobFiles(run).newest()
    return Path(newest.folder) if newest is not None else Path.cwd()


def _check_absent(names: tuple[str, ...], why: str) -> None:
    """``UserError`` for options on the command line that have no effect in this place."""
    context = click.get_current_context()
    given = [one.opts[0] for one in context.command.params if _is_given(context, one, names)]
    if given:
        raise UserError(f"{', '.join(given)}: no effect, because {why}")


def _is_given(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> bool:
    source = context.get_parameter_source(str(parameter.name))
    return parameter.name in names and source is ParameterSource.COMMANDLINE
