"""``gemfit estimate``."""

from __future__ import annotations

import json

import click

from gemfit.errors import UserError
from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.output.estimate import Query, estimate_json, show_estimate
from gemfit_launch.planning.attention import possible_attentions
from gemfit_launch.planning.request import Request
from gemfit_launch.predict.gpu_specs import GB, find_gpu
from gemfit_launch.predict.search import GPU_COUNTS, estimate_all
from gemfit_launch.predict.shape_lookup import find_shape
from gemfit_launch.verbs._options import (
    disk_option,
    gpu_option,
    json_option,
    recipe_argument,
    settings_option,
)


@click.command()
@recipe_argument
@gpu_option(required=True)
@click.option("--gpus", "counts", metavar="N,N,…", default="all", show_default=True, help="Numbers of GPUs.")
@click.option("--host-memory", "host_gb", type=click.IntRange(min=1), metavar="GB", help="Memory of a node.")
@click.option(
    "--strategy", "strategies", type=click.Choice(STRATEGY_NAMES), multiple=True, help="Only these."
)
@disk_option()
@settings_option
@click.option("--all", "everything", is_flag=True, help="Show every strategy on every number of GPUs.")
@json_option
def estimate(
    recipe: str,
    gpu: str,
    counts: str,
    host_gb: int | None,
    strategies: tuple[str, ...],
    disk_gb_per_second: float | None,
    settings: tuple[str, ...],
    everything: bool,
    as_json: bool,
) -> None:
    """Find configurations that fit a GPU.

    Lists them fastest first. Strategy, offload, sequence parallelism, per-device batch size and activation
    checkpointing vary; what is trained does not. Memory and time are predicted, and nothing is started.

    \b
    Example:
      gemfit estimate gemma3/27b --gpu h100-80
      gemfit estimate gemma3/4b --gpu rtx-4090-24 --gpus 1,2,4 --all
      gemfit estimate gemma3/27b --set data.seq_len=131072 --gpu h200-141 --disk 5
    """
    request = Request(name=recipe, settings=settings)
    query = Query(
        name=recipe,
        recipe=request.recipe(),
        gpu=find_gpu(gpu),
        arguments=tuple(request.arguments()),
        disk_gb_per_second=disk_gb_per_second,
    )
    found = find_shape(query.recipe.model)
    if found.shape is None:
        raise UserError(f"{recipe}: {found.why_not}")
    host_bytes = host_gb * GB if host_gb is not None else None
    estimates = estimate_all(
        query.recipe,
        found.shape,
        query.gpu,
        numbers(counts),
        host_bytes=host_bytes,
        attentions=possible_attentions(query.recipe, query.gpu, found.shape.head_dim),
    )
    estimates = [one for one in estimates if not strategies or one.strategy_name in strategies]
    if as_json:
        click.echo(json.dumps(estimate_json(query, estimates), indent=2))
    else:
        show_estimate(query, estimates, found.shape, everything=everything)


def numbers(text: str) -> tuple[int, ...]:
    """From ``1,2,8`` or ``all``; anything else is a ``UserError``."""
    if text == "all":
        return GPU_COUNTS
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--gpus {text}: write numbers such as 1,2,8, or all")
    return tuple(dict.fromkeys(int(part) for part in parts))
