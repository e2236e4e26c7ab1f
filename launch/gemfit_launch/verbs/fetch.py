"""``gemfit fetch``."""

from __future__ import annotations

import tempfile

import click

from gemfit.core.install_hint import require_packages
from gemfit_launch.argv import to_argv
from gemfit_launch.planning.request import Request
from gemfit_launch.runs.python_module import run_module
from gemfit_launch.slurm.sites.hub_environment import hub_environment
from gemfit_launch.slurm.submit.site_options import SiteOptions
from gemfit_launch.verbs._options import json_option, request_options
from gemfit_launch.verbs._slurm_options import slurm_options


@click.command()
@request_options()
@slurm_options(site_required=False, with_nodes=False)
@json_option
def fetch(request: Request, site_options: SiteOptions, as_json: bool) -> None:
    """Fetch model and data for nodes.

    Where nodes have no network: weights, tokenizer and datasets of a recipe, each at the newest commit of
    its revision, into the Hub cache that the jobs of --site read. Digests are verified. Files that are in the
    cache are not downloaded again. Later plans are of the commits in the cache; `gemfit preflight` checks
    that a node can start from it.
    Exit status: 0 all is there, 75 the Hub does not answer, 2 invalid input or no access.

    \b
    Example:
      gemfit fetch gemma3/1b-reference --site gpu-cluster
      gemfit fetch gemma3/1b-reference --data hf:HuggingFaceH4/no_robots
    """
    require_packages("`gemfit fetch`", ["huggingface_hub"], "train")
    site = site_options.site() if site_options.name is not None else None
    if site is None and site_options.settings:
        raise click.UsageError("--site-set changes a site; give --site SITE with it")
    environment = hub_environment(site) | {"HF_HUB_OFFLINE": "0"}  # that is about the nodes
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="gemfit-fetch-") as stream:
        stream.write(request.recipe().to_json())
        stream.flush()
        argv = [stream.name, *to_argv({"json": as_json})]
        raise click.exceptions.Exit(run_module("gemfit.fetch", argv, environment))
