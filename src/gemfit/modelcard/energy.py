"""Energy of a training: as measured by counters, and an upper estimate from GPU power limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gemfit.summary.attempts import AttemptSummary

UTILISATION = 1.0
"""GPUs at their power limit all the time: an upper bound, not a measurement."""
PUE = 1.56
"""Average of data centres in the Uptime Institute's survey of 2024; ``--pue`` overrides it."""
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class EnergyEstimate:
    """An upper estimate."""

    kwh: float
    """Of the GPUs, times the PUE of their data centre."""
    pue: float


def measured_energy(
    attempts: Sequence[AttemptSummary], counter: Literal["cpu_joules", "gpu_joules"]
) -> float | str:
    """Kilowatt-hours over all attempts by the counters of CPUs or GPUs, or why they are unknown."""
    joules = 0.0
    for attempt in attempts:
        if attempt.energy is None:
            return f"attempt {attempt.number} left no measurement that ends by the step of this model"
        counted: float | None = getattr(attempt.energy, counter)
        if counted is None:
            return f"no counter could be read in attempt {attempt.number}"
        joules += counted
    return joules / JOULES_PER_KWH


def estimate_energy(attempts: Sequence[AttemptSummary], pue: float) -> EnergyEstimate | str:
    """GPUs x power limit x time x utilisation x PUE over all attempts, or why it is unknown.

    CPUs, memory, network and the time before training began are not included.
    """
    joules = 0.0
    for attempt in attempts:
        limits = power_limits(attempt)
        if isinstance(limits, str):
            return limits
        joules += sum(limits) * attempt.seconds * UTILISATION
    return EnergyEstimate(kwh=joules * pue / JOULES_PER_KWH, pue=pue)


def power_limits(attempt: AttemptSummary) -> list[float] | str:
    """Power limit of each GPU in watts, or why they are unknown."""
    if attempt.hardware is None:
        return f"attempt {attempt.number} left no record of its hardware"
    if not attempt.hardware.gpus:
        return f"attempt {attempt.number} ran on CPUs, whose power limit is unknown"
    limits = [gpu.power_limit_watts for gpu in attempt.hardware.gpus]
    reported = [limit for limit in limits if limit is not None]
    if len(reported) < len(limits):
        return f"the driver did not report the power limit of every GPU of attempt {attempt.number}"
    return reported
