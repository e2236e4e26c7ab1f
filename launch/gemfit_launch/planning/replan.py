"""Resume plan: the plan of a run, made again for other ranks, another strategy or other settings.

The pack is reused unless a field that decides its rows changes, so the input data need not exist any more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from gemfit.config.overrides import build
from gemfit.config.yaml_source import YamlDocument
from gemfit.core.gpu_count import count_gpus
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan, Steps, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.site import Site
from gemfit.schemas.strategy import Ddp, Single, Strategy
from gemfit.schemas.training_identity import Change, changes, check_changes, check_known_keys, flatten
from gemfit_launch.planning.node_range import NodeRange, plan_nodes
from gemfit_launch.planning.plan import make_plan, with_own_launch
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.row_count import Rows
from gemfit_launch.planning.topology import Ranks, choose_topology

KEPT = ("node_counts", "attention_because", "attention_if_proven", "data_notes")
"""Fields of a plan that are not made again on other ranks."""
PACK_FIELDS: dict[str, Any] = {"data": True, "model": {"id", "revision", "tokenizer", "scratch"}}
"""Recipe fields that decide the rows of the pack."""


def replan(old: Plan, request: Request, ranks: Ranks, origin: str) -> Plan:
    """``old`` with the changes of ``request``, on ``ranks`` of this machine; ``origin`` names it in errors.

    Without any change this is ``old``; what is executed is made from its recipe, not read from the file.
    """
    if request == Request(name="") and ranks == Ranks():
        return with_own_launch(old)
    recipe, rows = _changed(old, request, origin)
    return resolve_plan(recipe, _topology(old, recipe, ranks), rows, old.site)


def replan_job(old: Plan, request: Request, nodes: NodeRange, origin: str, site: Site) -> Plan:
    """``old`` with the changes of ``request``, on ``nodes`` nodes of ``site``, as ``replan``."""
    if request == Request(name="") and site == old.site and nodes == NodeRange.of(old):
        return with_own_launch(old)
    recipe, rows = _changed(old, request, origin)
    return plan_nodes(recipe, nodes, site, rows)[0]


def on_nodes(plan: Plan, nodes: int) -> Plan:
    """``plan`` on another number of its `node_counts`; the training is the same."""
    if nodes == plan.topology.nodes:
        return plan
    return remake(plan, plan.topology.model_copy(update={"nodes": nodes}), plan.steps)


def with_rows(plan: Plan, rows: int) -> Plan:
    """``plan`` with a counted number of rows."""
    return remake(plan, plan.topology, plan.steps.model_copy(update={"rows": rows, "rows_are": "packed"}))


def remake(plan: Plan, topology: Topology, steps: Steps) -> Plan:
    """``plan`` on ``topology``, with the rows of ``steps``; reads nothing."""
    strategy = _strategy(plan, topology)
    made = make_plan(
        plan.recipe.model_copy(update={"strategy": strategy}),
        topology=topology,
        pack=plan.pack,
        rows=steps.rows,
        rows_are_packed=steps.rows_are == "packed",
        site=plan.site,
    )
    return made.model_copy(update={name: getattr(plan, name) for name in KEPT})


def _strategy(plan: Plan, topology: Topology) -> Strategy:
    """That of ``plan``; the plan of one rank says `single` where that of several is `ddp`."""
    is_ddp = isinstance(plan.recipe.strategy, Single) and plan.node_counts and topology.world_size > 1
    return Ddp() if is_ddp else plan.recipe.strategy


def _model(plan: Plan) -> ModelRecipe:
    """That of ``plan``, with the attention left open where it is for the ranks to find out."""
    open_field = {"attention": "auto"} if plan.attention_if_proven is not None else {}
    return plan.recipe.model.model_copy(update=open_field)


def _changed(old: Plan, request: Request, origin: str) -> tuple[Recipe, Rows | None]:
    """The recipe of ``old`` with the changes of ``request``, and its rows, where they stay the same."""
    several = old.topology.model_copy(update={"nodes": NodeRange.of(old).largest})
    before = old.recipe.model_copy(update={"strategy": _strategy(old, several), "model": _model(old)})
    recipe = build(Recipe, request.over(YamlDocument(before.model_dump(mode="json"), {}, origin)))
    same_rows = recipe.model_dump(include=PACK_FIELDS) == old.recipe.model_dump(include=PACK_FIELDS)
    known = same_rows and old.steps.rows_are == "packed"
    return recipe, Rows(count=old.steps.rows, pack=old.pack, packed=True) if known else None


def check_same_training(root: Path, old: Plan, new: Plan, allowed_changes: Collection[str]) -> None:
    """``UserError`` where the training identities differ in a key that is not allowed to change.

    Also where conversations are skipped by their numbers in another pack, which would be others there.
    """
    was, now = old.training_identity(), new.training_identity()
    check_known_keys(allowed_changes, [*was, *now])
    check_changes(was, now, allowed=allowed_changes, place=str(root))
    if new.recipe.skip_documents and new.pack.fingerprint != old.pack.fingerprint:
        raise UserError(
            f"{root}: skip_documents is {list(new.recipe.skip_documents)}, numbers of conversations in the "
            f"pack {old.pack.fingerprint}; in the pack {new.pack.fingerprint} they are others: resume with "
            "--set 'skip_documents=[]' --allow-changed skip_documents, and without --skip"
        )


def check_not_complete(run: RunDir, plan: Plan) -> None:
    """``UserError`` where ``run`` has completed all steps of ``plan``."""
    verdict = run.verdict()
    if run.is_complete(plan) and verdict is not None and verdict.step < plan.steps.total:
        raise UserError(
            f"{run.root}: is complete: {verdict.reason}; to go on, resume with a larger "
            "--set evaluation.early_stopping.patience=N, or with --set evaluation.early_stopping=null"
        )
    if run.is_complete(plan):
        raise UserError(f"{run.root}: is complete ({plan.steps.total} steps); there is nothing to resume")


def changed_parts(old: Plan, new: Plan) -> list[Change]:
    """Differences to print: recipe, ranks, and the batch arithmetic over them."""
    found = changes(_visible(old), _visible(new))
    if old.recipe.strategy.label == new.recipe.strategy.label:
        return found
    # The label covers them, and the fields of one strategy mean nothing to another.
    return [change for change in found if not change.key.startswith("strategy.")]


def _topology(old: Plan, recipe: Recipe, ranks: Ranks) -> Topology:
    """The requested ranks; what is not given comes from the old plan."""
    if ranks == Ranks():
        if isinstance(recipe.strategy, Single):
            return Topology(nodes=1, ranks_per_node=1, device=old.topology.device)
        return old.topology
    if ranks.device == "auto" and ranks.gpus is None:
        ranks = replace(ranks, device=old.topology.device)
    if ranks.gpus is None and ranks.nproc is None:
        ranks = replace(ranks, nproc=old.topology.world_size)
    return choose_topology(ranks, recipe.strategy, visible_gpus=count_gpus())


def _visible(plan: Plan) -> dict[str, JsonValue]:
    return {"strategy": plan.recipe.strategy.label} | flatten(
        {
            **plan.recipe.model_dump(mode="json"),
            "ranks": plan.topology.world_size,
            "nodes": str(NodeRange.of(plan)),
            "device": plan.topology.device,
            "rows per rank": plan.batch.per_device_batch_size,
            "gradient accumulation steps": plan.batch.gradient_accumulation_steps,
            "steps": plan.steps.total,
            "pack": plan.pack.fingerprint,
        }
    )
