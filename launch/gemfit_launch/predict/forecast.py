"""What a plan will need and how long it will take, where the model and the card are known.

Pure, but for the ``config.json`` of a model in a local folder.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from gemfit.schemas.plan import Plan
from gemfit_launch.predict.architecture import Architecture
from gemfit_launch.predict.gpu_specs import Card, guess_card
from gemfit_launch.predict.memory import Memory, gigabytes, predict_memory, setting_of
from gemfit_launch.predict.model_shapes import find_architecture
from gemfit_launch.predict.performance import Bill, Performance, predict_bill, predict_performance
from gemfit_launch.predict.search import Candidate, smaller, smallest_changes


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Everything that is predicted for one plan."""

    memory: Memory | None = None
    card: Card | None = None
    performance: Performance | None = None
    bill: Bill | None = None
    unknown: str | None = None
    """Why nothing is predicted, where a person would expect it."""
    warnings: tuple[str, ...] = ()


def make_forecast(plan: Plan, *, card: Card | None = None, price: float | None = None) -> Forecast:
    """The forecast for ``plan``: on ``card``, or on the one that its site names.

    On CPUs nothing is predicted. ``price`` is of one GPU for one hour.
    """
    if plan.topology.device == "cpu":
        return Forecast()
    found = find_architecture(plan.recipe.model)
    if found.architecture is None:
        return Forecast(unknown=found.why_not)
    card = card or guess_card(plan.site.gpu_kind if plan.site is not None else None)
    setting = setting_of(plan, found.architecture)
    memory = predict_memory(setting, plan.recipe.checkpoint)
    if card is None:
        return Forecast(memory=memory)
    performance = predict_performance(setting, card, tokens_per_step=plan.batch.tokens_per_step)
    return Forecast(
        memory=memory,
        card=card,
        performance=performance,
        bill=predict_bill(performance, plan, price),
        warnings=tuple(_too_large(plan, found.architecture, memory, card)),
    )


def with_warnings(plan: Plan) -> Plan:
    """``plan``, which also warns where its site's card is too small for it."""
    warnings = make_forecast(plan).warnings
    return plan.model_copy(update={"warnings": (*plan.warnings, *warnings)}) if warnings else plan


def _too_large(plan: Plan, architecture: Architecture, memory: Memory, card: Card) -> list[str]:
    if memory.gpu_bytes <= card.usable_bytes:
        return []
    changes = smallest_changes(plan.recipe, architecture, card, plan.topology.world_size)
    ways = [_told(change, plan) for change in changes]
    way_out = ", or ".join(ways) or (
        f"nothing that gemfit can change makes it fit; use a larger card or {smaller(plan.recipe.model)}"
    )
    largest = f"{memory.largest.name} alone: {gigabytes(memory.largest.bytes)}"
    return [
        f"{gigabytes(memory.gpu_bytes)} are predicted for each GPU, and {card.name} has "
        f"{gigabytes(card.usable_bytes)} to use ({largest}); {way_out}"
    ]


def _told(change: Candidate, plan: Plan) -> str:
    memory = change.memory
    host = f", and {gigabytes(memory.host_node_bytes)} of each node's memory" if change.offloads else ""
    options = shlex.join(change.options(plan.recipe))
    return f"{options} is predicted to need {gigabytes(memory.gpu_bytes)}{host}"
