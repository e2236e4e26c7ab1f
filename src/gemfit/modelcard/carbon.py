"""How much energy a training took: as counters have it, and at most, from power limits of boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gemfit.modelcard.attempts import Attempt

UTILISATION = 1.0
"""Boards at their power limit all the time: a bound, not a measurement."""
PUE = 1.56
"""Average of data centres in the Uptime Institute's survey of 2024; a person may state another."""
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Energy:
    """An upper estimate."""

    kwh: float
    """Of the boards and what their data centre takes for them."""
    pue: float


def measured(attempts: Sequence[Attempt], part: Literal["cpu_joules", "gpu_joules"]) -> float | str:
    """Kilowatt-hours that counters have counted over all attempts, of processors or boards; else why not."""
    joules = 0.0
    for attempt in attempts:
        if attempt.energy is None:
            return f"attempt {attempt.number} left no measurement that ends by the step of this model"
        counted: float | None = getattr(attempt.energy, part)
        if counted is None:
            return f"no counter could be read in attempt {attempt.number}"
        joules += counted
    return joules / JOULES_PER_KWH


def estimate(attempts: Sequence[Attempt], pue: float) -> Energy | str:
    """Boards x power limit x time x utilisation x PUE over all attempts; else why it cannot be said.

    Processors, memory, network and the time before training began are not in it.
    """
    joules = 0.0
    for attempt in attempts:
        limits = board_limits(attempt)
        if isinstance(limits, str):
            return limits
        joules += sum(limits) * attempt.seconds * UTILISATION
    return Energy(kwh=joules * pue / JOULES_PER_KWH, pue=pue)


def board_limits(attempt: Attempt) -> list[float] | str:
    """Power limit of each board in watts, or why they are not known."""
    if attempt.hardware is None:
        return f"attempt {attempt.number} left no record of its hardware"
    if not attempt.hardware.gpus:
        return f"attempt {attempt.number} ran on CPUs, whose power limit is not known"
    limits = [gpu.power_limit_watts for gpu in attempt.hardware.gpus]
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits):
        return f"the driver did not tell the power limit of every board of attempt {attempt.number}"
    return known
