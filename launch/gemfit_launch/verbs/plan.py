"""``gemfit plan``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit_launch.argv import to_argv
from gemfit_launch.output.plan import plan_json, show_plan
from gemfit_launch.planning.node_range import plan_nodes
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.predict.forecast import Forecast, make_forecast
from gemfit_launch.predict.gpu_specs import GpuSpec, find_gpu
from gemfit_launch.runs.status import default_folder
from gemfit_launch.slurm.sites.hub_environment import planning_environment
from gemfit_launch.slurm.submit.show import show_scripts
from gemfit_launch.slurm.submit.site_options import SiteOptions, check_ranks
from gemfit_launch.slurm.submit.submit import render_scripts
from gemfit_launch.verbs._options import (
    RUN_FOLDER,
    disk_option,
    gpu_option,
    json_option,
    price_option,
    ranks_options,
    request_options,
)
from gemfit_launch.verbs._slurm_options import slurm_options


@click.command()
@request_options()
@ranks_options(with_nodes=False)
@slurm_options(site_required=False)
@click.option("--run", "folder", type=RUN_FOLDER, help="Run folder, for the job script.")
@gpu_option(required=False)
@disk_option()
@price_option
@json_option
def plan(
    request: Request,
    ranks: Ranks,
    site_options: SiteOptions,
    folder: Path | None,
    gpu: str | None,
    disk_gb_per_second: float | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Show what a run would do.

    Writes nothing. Without a pack the number of rows is an estimate, and marked as one. With --site it
    prints the exact job script that `submit` would pass to sbatch. Memory is predicted for GPUs; time and
    cost too where --gpu or the site names the kind of GPU.

    \b
    Example:
      gemfit plan gemma3/1b-reference --gpus 24 --json
      gemfit plan gemma3/4b --gpus 8 --gpu h100-80 --price 2.50 --disk 2
      gemfit plan debug/cpu-tiny --data chat.jsonl --nproc 2 --strategy fsdp2
      gemfit plan gemma3/1b-reference --site gpu-cluster --nodes 1-4 --data chat.jsonl
    """
    on = Hardware(
        gpu=find_gpu(gpu) if gpu is not None else None, disk_gb_per_second=disk_gb_per_second, price=price
    )
    if site_options.name is not None:
        _plan_at_site(request, ranks, site_options, folder, on, as_json)
        return
    if site_options.settings or folder is not None:
        raise click.UsageError("--site-set and --run are about a job; give --site SITE")
    nodes = site_options.nodes
    if nodes is not None and not nodes.is_fixed:
        raise click.UsageError(f"--nodes {nodes}: a range is about a job; give --site SITE")
    ranks = replace(ranks, nodes=nodes.smallest if nodes is not None else None)
    made = resolve_plan(request.pinned_recipe(), ranks)
    forecast = on.forecast(made)
    if as_json:
        click.echo(plan_json(made, forecast))
    else:
        command = ["gemfit", "run", *_with_data(request, made), *ranks.arguments()]
        show_plan(made, request.name, command, forecast)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """The kind of GPU and its price, and the disk, where given."""

    gpu: GpuSpec | None
    disk_gb_per_second: float | None
    price: float | None

    def forecast(self, made: Plan) -> Forecast:
        """Predicted memory, time and cost; options without effect are a ``UserError``."""
        if self.gpu is not None and made.topology.device == "cpu":
            raise UserError(f"--gpu {self.gpu.name} has no effect on CPUs; give --gpus N, the number of GPUs")
        disk = self.disk_gb_per_second
        forecast = make_forecast(made, gpu=self.gpu, price=self.price, disk_gb_per_second=disk)
        for option, value in (("--price", self.price), ("--disk", disk)):
            if value is not None and forecast.bill is None:
                why = forecast.unknown or "the kind of GPU is unknown; give --gpu KIND"
                raise UserError(f"{option} {value:g} has no effect: {why}")
        return forecast


def _plan_at_site(
    request: Request,
    ranks: Ranks,
    site_options: SiteOptions,
    folder: Path | None,
    on: Hardware,
    as_json: bool,
) -> None:
    site = site_options.site()
    check_ranks(ranks, site)
    recipe = request.pinned_recipe(planning_environment(site))
    made, sizes = plan_nodes(recipe, site_options.node_range, site)
    forecast = on.forecast(made)
    if as_json:
        click.echo(plan_json(made, forecast, sizes))
        return
    root = folder or default_folder(request)
    at_site = replace(site_options, nodes=site_options.node_range)
    options = [*_with_data(request, made), *at_site.arguments(), *to_argv({"run": root})]
    show_plan(made, request.name, ["gemfit", "submit", *options], forecast, sizes)
    show_scripts(render_scripts(made, root, Path.cwd()))


def _with_data(request: Request, made: Plan) -> list[str]:
    placeholder = [] if made.recipe.data.mixture else ["--data", "FILE.jsonl"]
    return [*request.arguments(), *placeholder]
