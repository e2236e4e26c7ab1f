"""``gemfit preflight``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gemfit.core.network_interface import resolves
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit_launch.output.checks import check_table
from gemfit_launch.output.tables import console
from gemfit_launch.planning.node_range import plan_nodes
from gemfit_launch.planning.request import Request
from gemfit_launch.runs.status import default_folder
from gemfit_launch.slurm.cluster.cluster import ask_cluster
from gemfit_launch.slurm.cluster.preflight import examine
from gemfit_launch.slurm.cluster.preflight_local import check_locally, measured_pace, predicted_pace
from gemfit_launch.slurm.cluster.preflight_offline import check_offline_start
from gemfit_launch.slurm.sites.hub_environment import planning_environment
from gemfit_launch.slurm.submit.container_paths import check_mounts
from gemfit_launch.slurm.submit.site_options import SiteOptions
from gemfit_launch.slurm.submit.submit import render_scripts
from gemfit_launch.verbs._options import RUN_FOLDER, json_option, request_options
from gemfit_launch.verbs._slurm_options import slurm_options


@click.command()
@request_options()
@slurm_options(site_required=True)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder.  [default: runs/RECIPE-TIME]")
@click.option(
    "--like", type=RUN_FOLDER, metavar="RUN", help="Use the measured step and save times of this run."
)
@json_option
def preflight(
    request: Request, site_options: SiteOptions, folder: Path | None, like: Path | None, as_json: bool
) -> None:
    """Check a Slurm job before submission.

    Asks the cluster about partition, nodes, GPUs, limits and notice before preemption, and this machine
    about addresses, disk and token; with the network closed it opens model, tokenizer and data from the
    Hub cache of the jobs. A step and a save are compared with the notice before an end: as measured by
    --like, or as predicted where the site names gpu_kind and disk_gb_per_second. With a range of nodes,
    Slurm is asked when the job would start on each number, up to eight of them. Exit status 2 where
    something would keep the job from running.

    \b
    Example:
      gemfit preflight gemma3/1b-reference --site gpu-cluster --nodes 2 --like runs/first
    """
    site, root = site_options.site(), folder or default_folder(request)
    recipe = request.pinned_recipe(planning_environment(site))
    plan, sizes = plan_nodes(recipe, site_options.node_range, site)
    pace = measured_pace(RunDir.open(like)) if like is not None else predicted_pace(plan)
    scripts = render_scripts(plan, root, Path.cwd())
    results = [
        *examine(plan, ask_cluster(), pace, resolves=resolves),
        *check_mounts(site, plan, root, Path.cwd()),
        *check_offline_start(plan, site),
        *check_locally(plan, root, pace, scripts.items(), sizes),
    ]
    if as_json:
        click.echo(json.dumps([result.model_dump() for result in results], indent=2))
    else:
        console().print(check_table(results))
    if any(result.state == "error" for result in results):
        raise click.exceptions.Exit(ExitCode.USER_ERROR)
