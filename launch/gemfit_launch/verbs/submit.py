"""``gemfit submit``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.find_inputs import find_files
from gemfit_launch.argv import to_argv
from gemfit_launch.output.plan import show_plan, show_summary
from gemfit_launch.output.tables import console
from gemfit_launch.planning.node_range import plan_nodes
from gemfit_launch.planning.request import Request
from gemfit_launch.runs.status import default_folder
from gemfit_launch.slurm.cluster.dependency import check_dependency
from gemfit_launch.slurm.cluster.job_limit import check_lead
from gemfit_launch.slurm.sites.hub_environment import planning_environment
from gemfit_launch.slurm.sites.planned_site import site_of
from gemfit_launch.slurm.submit.show import show_scripts
from gemfit_launch.slurm.submit.site_options import SiteOptions
from gemfit_launch.slurm.submit.submit import Prepared, render_scripts, submit_all
from gemfit_launch.slurm.submit.sweep import Variant, variants
from gemfit_launch.verbs._completion import SettingKey
from gemfit_launch.verbs._options import RUN_FOLDER, json_option, request_options
from gemfit_launch.verbs._slurm_options import after_option, slurm_options
from gemfit_launch.verbs._submission import report_submission, warn_hidden_options


@click.command()
@request_options()
@slurm_options(site_required=True)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder.  [default: runs/RECIPE-TIME]")
@after_option
@click.option(
    "--sweep",
    "sweeps",
    type=SettingKey(),
    metavar="KEY=A,B",
    multiple=True,
    help="One run per value, such as seed=1,2,3; repeated, one per combination.",
)
@click.option(
    "--max-parallel",
    type=click.IntRange(min=1),
    help="Train at most so many runs of a sweep at once; the others wait.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, and submit nothing.")
@json_option
def submit(
    request: Request,
    site_options: SiteOptions,
    folder: Path | None,
    after: int | None,
    sweeps: tuple[str, ...],
    max_parallel: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train as a Slurm job.

    The job requeues itself when it is preempted or out of time. With a range of nodes, Slurm gives it as many
    as it has at each start, and the training is the same on any number. Data that is not packed yet is packed
    first, by a job without a GPU. Code and recipe are copied into the run folder, so a requeued job runs
    what was submitted. Tokens such as HF_TOKEN reach the job through the environment, never in a file.

    \b
    Example:
      gemfit submit gemma3/1b-reference --site gpu-cluster --nodes 2 --data chat.jsonl --run runs/first
      gemfit submit gemma3/1b-reference --site gpu-cluster --nodes 1-4 --data chat.jsonl --run runs/elastic
      gemfit submit gemma3/1b-reference --site gpu-cluster --site-set time=2:00:00 --data chat.jsonl --dry-run
      gemfit submit gemma3/1b-reference --site gpu-cluster --data chat.jsonl --sweep seed=1,2 --max-parallel 1
    """
    if max_parallel is not None and not sweeps:
        raise UserError(f"--max-parallel {max_parallel}: no effect on one run; name several with --sweep")
    root = folder or default_folder(request)
    jobs = [_prepare(variant, site_options, root) for variant in variants(request, sweeps)]
    if dry_run:
        _show(jobs, site_options)
        return
    for job in jobs:
        RunDir.check_unused(job.root)
        if not job.plan.recipe.data.mixture:
            find_files(None)  # raises with the option that names the data
    check_dependency(after)
    check_lead(site_of(jobs[0].plan))
    warn_hidden_options()
    if not as_json:
        show_summary(console(), jobs[0].plan, request.name)
    submitted: list[dict[str, object]] = []
    try:
        for job, submission in submit_all(jobs, Path.cwd(), after, max_parallel):
            if not as_json:
                report_submission(job.root, submission)  # at once: Slurm may refuse the next one
            submitted.append({"run": str(job.root), **submission.model_dump(mode="json")})
    except UserError as error:
        if not sweeps:
            raise
        count = f"{len(submitted)} of {len(jobs)} runs are submitted"
        raise UserError(f"{jobs[len(submitted)].root}: {error}\n{count}") from None
    finally:
        if as_json and (sweeps or submitted):
            click.echo(json.dumps(submitted if sweeps else submitted[0], indent=2))


def _prepare(variant: Variant, site_options: SiteOptions, root: Path) -> Prepared:
    """The plan and the scripts of one run; writes nothing."""
    site = site_options.site()
    recipe = variant.request.pinned_recipe(planning_environment(site))
    plan, _ = plan_nodes(recipe, site_options.node_range, site)
    place = root
    if variant.suffix:
        named = root if root.name not in ("", "..") else root.resolve()
        place = named.with_name(f"{named.name}{variant.suffix}")
    scripts = render_scripts(plan, place, Path.cwd())
    return Prepared(place, variant.request, plan, scripts, site_options)


def _show(jobs: Sequence[Prepared], site_options: SiteOptions) -> None:
    for job in jobs:
        options = [*job.request.arguments(), *site_options.arguments(), *to_argv({"run": job.root})]
        show_plan(job.plan, job.request.name, ["gemfit", "submit", *options])
        show_scripts(job.scripts)
