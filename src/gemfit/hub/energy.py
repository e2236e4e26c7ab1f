"""How much energy a training took at most, from the power limits of its boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemfit.hub.attempts import Attempt

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
    watt_hours_of_boards: float

    def grams(self, intensity: float) -> float:
        """CO2 equivalent at ``intensity`` grams per kilowatt-hour."""
        return self.kwh * intensity


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
    return Energy(kwh=joules * pue / JOULES_PER_KWH, pue=pue, watt_hours_of_boards=joules / 3600)


def board_limits(attempt: Attempt) -> list[float] | str:
    """Power limit of each board in watts, or why they are not known."""
    if attempt.hardware is None:
        return f"attempt {attempt.number} left no record of its hardware"
    if not attempt.hardware.gpus:
        return f"attempt {attempt.number} ran on CPUs, whose power is not recorded"
    limits = [gpu.power_limit_watts for gpu in attempt.hardware.gpus]
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits):
        return f"the driver did not tell the power limit of every board of attempt {attempt.number}"
    return known
