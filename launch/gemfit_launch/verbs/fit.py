"""``gemfit fit``."""

from __future__ import annotations

import json

import click

from gemfit.errors import UserError
from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.output.estimate import Asked, fit_json, show_fit
from gemfit_launch.planning.request import Request
from gemfit_launch.predict.gpu_specs import GB, find_card
from gemfit_launch.predict.model_shapes import find_architecture
from gemfit_launch.predict.search import GPU_COUNTS, candidates
from gemfit_launch.verbs._options import card_option, json_option, recipe_argument


@click.command()
@recipe_argument
@card_option(required=True)
@click.option(
    "--gpus", "counts", metavar="N,N,…", default="all", show_default=True, help="Numbers of GPUs to look at."
)
@click.option("--host-memory", "host_gb", type=click.IntRange(min=1), metavar="GB", help="Of one node.")
@click.option(
    "--strategy", "strategies", type=click.Choice(STRATEGY_NAMES), multiple=True, help="Only these."
)
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change one value; may be repeated."
)
@click.option("--all", "everything", is_flag=True, help="Show every strategy on every number of GPUs.")
@json_option
def fit(
    recipe: str,
    card: str,
    counts: str,
    host_gb: int | None,
    strategies: tuple[str, ...],
    settings: tuple[str, ...],
    everything: bool,
    as_json: bool,
) -> None:
    """List the ways of training a recipe that fit a kind of GPU, fastest first.

    Strategy, offload, rows a GPU takes and recomputation are varied; what is trained is not. Memory and time
    are predicted, and nothing is started.

    \b
    Example:
      gemfit fit gemma3/27b --gpu h100-80
      gemfit fit gemma3/4b --gpu rtx-4090-24 --gpus 1,2,4 --all
    """
    request = Request(name=recipe, settings=settings)
    asked = Asked(
        name=recipe, recipe=request.recipe(), card=find_card(card), arguments=tuple(request.arguments())
    )
    found = find_architecture(asked.recipe.model)
    if found.architecture is None:
        raise UserError(f"{recipe}: {found.why_not}")
    host_bytes = host_gb * GB if host_gb is not None else None
    ways = candidates(asked.recipe, found.architecture, asked.card, numbers(counts), host_bytes=host_bytes)
    ways = [way for way in ways if not strategies or way.label.partition("+")[0] in strategies]
    if as_json:
        click.echo(json.dumps(fit_json(asked, ways), indent=2))
    else:
        show_fit(asked, ways, everything=everything)


def numbers(text: str) -> tuple[int, ...]:
    """From ``1,2,8`` or ``all``; anything else is a ``UserError``."""
    if text == "all":
        return GPU_COUNTS
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--gpus {text}: write numbers such as 1,2,8, or all")
    return tuple(dict.fromkeys(int(part) for part in parts))
