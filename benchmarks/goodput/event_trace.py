"""The trace: twelve events that end training on a cluster, their times and their victims, from one seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

EventKind = Literal["preemption", "short preemption", "reclaim", "killed rank", "killed node"]

COUNTS: Mapping[EventKind, int] = {
    "preemption": 3,
    "short preemption": 3,
    "reclaim": 2,
    "killed rank": 2,
    "killed node": 2,
}
"""Events of a full trace."""
NOTICE: Mapping[EventKind, str] = {
    "preemption": "GraceTime 15 s: USR1 to the batch script, then TERM, then KILL",
    "short preemption": "GraceTime 0: USR1 and TERM at once, KILL after KillWait, 10 s",
    "reclaim": "none: all processes on both nodes get SIGKILL, the nodes are down",
    "killed rank": "none: one rank gets SIGKILL",
    "killed node": "none: all processes on one node get SIGKILL, the node is down",
}
"""What the job is told before it loses its nodes."""
WITH_NOTICE: frozenset[EventKind] = frozenset({"preemption", "short preemption"})
SHORTEST_GAP, LONGEST_GAP = 28.0, 42.0
"""Seconds from one event to the next: uniform between them."""
FIRST_START = 12.0
"""Seconds that the first gap is longer: nothing has been trained yet."""


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """One event of the trace."""

    kind: EventKind
    at: float
    """Seconds since the job ran first."""
    node: int
    """Index of the node among those of the job that loses a rank, or everything."""


def make_trace(
    seed: int, events: int = sum(COUNTS.values()), *, stretch: float = 1.0
) -> tuple[PlannedEvent, ...]:
    """The first ``events`` of the trace of ``seed``, in the order of their times.

    The kinds are shuffled, gaps and victims drawn; a shorter trace is the beginning of the full one.
    ``stretch`` multiplies all times, for a slower machine.
    """
    source = random.Random(seed)
    kinds = [kind for kind, count in COUNTS.items() for _ in range(count)]
    source.shuffle(kinds)
    made: list[PlannedEvent] = []
    at = FIRST_START
    for kind in kinds:
        at += source.uniform(SHORTEST_GAP, LONGEST_GAP)
        made.append(PlannedEvent(kind, round(stretch * at, 1), source.randrange(2)))
    return tuple(made[:events])


def trace_end(trace: Sequence[PlannedEvent]) -> float:
    """When the run under the trace is ended, in seconds since the job ran first.

    The mean gap after the last event, so that the time to come back from that one counts as well.
    """
    return trace[-1].at * (len(trace) + 1) / len(trace)
