"""From a recipe and options to a plan, by looking at this machine: GPUs, libraries, packed data."""

from __future__ import annotations

from importlib.util import find_spec

from gemfit.plan import Plan
from gemfit.recipe import Recipe
from gemfit_launch.planning import make_plan
from gemfit_launch.rows import find_rows
from gemfit_launch.topology import Ranks, choose_topology, count_gpus


def resolve_plan(recipe: Recipe, ranks: Ranks) -> Plan:
    """The plan for ``recipe`` with the rows that are known now; writes nothing."""
    topology = choose_topology(ranks, recipe.strategy, visible_gpus=count_gpus())
    rows = find_rows(recipe)
    return make_plan(
        recipe,
        topology=topology,
        pack=rows.pack,
        rows=rows.count,
        rows_are_packed=rows.packed,
        flash_attention=find_spec("flash_attn") is not None,
        notes=(rows.note,) if rows.note else (),
    )
