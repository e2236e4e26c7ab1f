"""``gemfit plan``."""

from __future__ import annotations

import click

from gemfit_launch.options import json_option, ranks_options, request_options
from gemfit_launch.planview import plan_json, show_plan
from gemfit_launch.request import Request
from gemfit_launch.resolve import resolve_plan
from gemfit_launch.topology import Ranks


@click.command()
@request_options()
@ranks_options(with_nodes=True)
@json_option
def plan(request: Request, ranks: Ranks, as_json: bool) -> None:
    """Show what a run would do, and touch nothing.

    Without a pack the rows are an estimate, and the plan says so.

    \b
    Example:
      gemfit plan gemma3/1b-card --gpus 24 --json
      gemfit plan debug/cpu-tiny --data talks.jsonl --nproc 2 --strategy fsdp2
    """
    made = resolve_plan(request.recipe(), ranks)
    if as_json:
        click.echo(plan_json(made))
    else:
        data = ["--data", "FILE.jsonl"] if made.recipe.data.source is None else []
        show_plan(made, request.name, ["gemfit", "run", *request.arguments(), *data, *ranks.arguments()])
