"""Make a plan from a recipe, options, and this machine's GPUs, libraries and packs."""

from __future__ import annotations

from gemfit.core.gpu_count import count_gpus
from gemfit.schemas.plan import Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit_launch.planning.attention import attention_facts
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.row_count import Rows, find_rows
from gemfit_launch.planning.topology import Ranks, choose_topology
from gemfit_launch.predict.forecast import with_warnings


def resolve_plan(
    recipe: Recipe, ranks: Ranks | Topology, rows: Rows | None = None, site: Site | None = None
) -> Plan:
    """The plan for ``recipe`` with ``rows``, else with the rows of a pack or an estimate; writes nothing."""
    topology = (
        ranks
        if isinstance(ranks, Topology)
        else choose_topology(ranks, recipe.strategy, visible_gpus=count_gpus())
    )
    rows = rows or find_rows(recipe)
    plan = make_plan(
        recipe,
        topology=topology,
        pack=rows.pack,
        rows=rows.count,
        rows_are_packed=rows.packed,
        attention=attention_facts(recipe, topology, site),
        site=site,
        notes=(rows.note,) if rows.note else (),
    )
    return with_warnings(plan.model_copy(update={"data_notes": rows.data_notes}))
