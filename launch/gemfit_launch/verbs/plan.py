"""``gemfit plan``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit_launch.options import RUN_FOLDER, json_option, ranks_options, request_options
from gemfit_launch.planview import plan_json, show_plan
from gemfit_launch.request import Request
from gemfit_launch.resolve import resolve_plan
from gemfit_launch.runstatus import default_folder
from gemfit_launch.slurm.options import placing_options
from gemfit_launch.slurm.placing import Placing, ranks_at, refuse_ranks
from gemfit_launch.slurm.scriptview import show_scripts
from gemfit_launch.slurm.submission import render_scripts
from gemfit_launch.topology import Ranks


@click.command()
@request_options()
@ranks_options(with_nodes=True)
@placing_options(site_required=False, with_nodes=False)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder, for the job script of a site.")
@json_option
def plan(request: Request, ranks: Ranks, placing: Placing, folder: Path | None, as_json: bool) -> None:
    """Show what a run would do, and touch nothing.

    Without a pack the rows are an estimate, and the plan says so. With a site, it shows the job script
    that `submit` would hand to sbatch, byte for byte.

    \b
    Example:
      gemfit plan gemma3/1b-card --gpus 24 --json
      gemfit plan debug/cpu-tiny --data talks.jsonl --nproc 2 --strategy fsdp2
      gemfit plan gemma3/1b-card --site gpu-cluster --nodes 2 --data talks.jsonl
    """
    if placing.name is not None:
        _plan_at_site(request, ranks, placing, folder, as_json)
        return
    if placing.settings or folder is not None:
        raise click.UsageError("--site-set and --run are about a job; give --site SITE")
    made = resolve_plan(request.recipe(), ranks)
    if as_json:
        click.echo(plan_json(made))
    else:
        show_plan(made, request.name, ["gemfit", "run", *_with_data(request), *ranks.arguments()])


def _plan_at_site(
    request: Request, ranks: Ranks, placing: Placing, folder: Path | None, as_json: bool
) -> None:
    site = placing.site()
    refuse_ranks(ranks, site)
    made = resolve_plan(request.recipe(), ranks_at(site, ranks.nodes or 1), site=site)
    if as_json:
        click.echo(plan_json(made))
        return
    root = folder or default_folder(request)
    options = [*_with_data(request), *placing.arguments(), "--nodes", str(made.topology.nodes)]
    show_plan(made, request.name, ["gemfit", "submit", *options, "--run", str(root)])
    show_scripts(render_scripts(made, root, Path.cwd()))


def _with_data(request: Request) -> list[str]:
    given = request.recipe().data.mixture
    return [*request.arguments(), *([] if given else ["--data", "FILE.jsonl"])]
