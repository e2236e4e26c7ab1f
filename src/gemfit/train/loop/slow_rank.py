"""Find the rank that is slower than the others, from the times of all ranks in each step.

A rank is slow after ``STEPS`` steps in a row, in each of which its own time exceeds that of the median rank:
chance makes another rank the slowest in every step. Pure: all ranks find the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.schemas.metrics import SlowCause

STEPS = 20
"""Steps in a row after which a rank is named."""
OF_MEDIAN = 0.10
"""Least excess over the computing of the median rank, as a share of it."""
OF_STEP = 0.02
"""Least excess as a share of the time of the whole step: less is not worth a node."""
CAUSES: tuple[SlowCause, ...] = ("compute", "input")
"""Of a rank itself; its network is found by ``network_probe``."""


class LocalTime(NamedTuple):
    """What a rank does in a step before it needs the others, in seconds."""

    compute: float
    """In forward passes of decoder layers."""
    input: float
    """Waiting for its batches."""


@dataclass(frozen=True, slots=True)
class SlowRank:
    """A rank that has been slow for ``STEPS`` steps."""

    rank: int
    cause: SlowCause
    seconds: float
    """Of its own time in a step, mean over these steps."""
    others_seconds: float
    """The same of the median rank."""


class SlowRankDetector:
    """Counts for each rank and cause the steps in a row in which it was slow; names each of them once."""

    def __init__(self, ranks: int) -> None:
        self._streaks = np.zeros((len(CAUSES), ranks), np.int64)
        self._sums = np.zeros((2, len(CAUSES), ranks))
        self._named = np.zeros((len(CAUSES), ranks), bool)

    def add(self, times: NDArray[np.float64], step_seconds: float) -> list[SlowRank]:
        """Take the times of one step, (causes, ranks); returns the ranks that this step shows to be slow."""
        median = typical(times)
        excess = times - median
        least = np.array([[OF_MEDIAN], [0.0]]) * median
        slow = (excess > least) & (excess > OF_STEP * step_seconds)
        self._streaks = np.where(slow, self._streaks + 1, 0)
        self._sums = np.where(slow, self._sums + np.stack(np.broadcast_arrays(times, median)), 0.0)
        due = (self._streaks >= STEPS) & ~self._named
        self._named |= due
        return [
            SlowRank(
                rank=int(rank),
                cause=CAUSES[cause],
                seconds=float(self._sums[0, cause, rank] / self._streaks[cause, rank]),
                others_seconds=float(self._sums[1, cause, rank] / self._streaks[cause, rank]),
            )
            for cause, rank in np.argwhere(due)
        ]


def typical(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower median over the ranks, (causes, 1): of two ranks the faster one."""
    ranks = times.shape[1]
    return np.partition(times, (ranks - 1) // 2, axis=1)[:, [(ranks - 1) // 2]]


def waiting_seconds(times: NDArray[np.float64]) -> float:
    """How long a rank waits for the slowest one by these times, mean over the ranks; at least so long."""
    local = times.sum(axis=0)
    return float(local.max() - local.mean())


def to_slots(time: LocalTime, rank: int, ranks: int) -> list[float]:
    """The times of ``rank`` at its places, to be summed over all ranks: (causes * ranks,)."""
    slots = np.zeros((len(CAUSES), ranks))
    slots[:, rank] = time
    return slots.reshape(-1).tolist()
