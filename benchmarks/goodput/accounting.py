"""Goodput of one side, from its log of steps, the states of its job and the events: the same for both sides.

    goodput = kept steps * median seconds of a step / seconds in which the job held its nodes

Both are per rank, and both sides have the same two ranks. A step is kept once, however often it was
trained. The states are those that Slurm showed, sampled from outside of the job: what a side says of itself
does not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from event_trace import WITH_NOTICE, EventKind

HOLDS_NODES = ("RUNNING", "COMPLETING", "CONFIGURING", "STOPPED", "SUSPENDED")


@dataclass(frozen=True, slots=True)
class DoneStep:
    """One optimizer step as its side has recorded it."""

    attempt: int
    step: int
    time: float
    """When it ended, in seconds since the Unix epoch."""
    seconds: float
    loss: float


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """An event that took place."""

    kind: EventKind
    time: float
    """In seconds since the Unix epoch."""
    late: float = 0.0
    """Seconds after its time in the trace, because the job did not run then."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What an event has cost."""

    kind: EventKind
    lost_steps: int | None
    """Done before the event and trained again; ``None`` where the next event came before another step."""
    seconds: float | None
    """From the event to the end of the first step that had not been done before."""


@dataclass(frozen=True, slots=True)
class SideResult:
    """A side under the trace."""

    goodput: float
    """0 to 1."""
    allocated_seconds: float
    """Of each rank."""
    kept_steps: int
    replayed_steps: int
    step_seconds: float
    """Median."""
    recoveries: tuple[Recovery, ...]

    @property
    def lost_with_notice(self) -> int:
        return sum(one.lost_steps or 0 for one in self.recoveries if one.kind in WITH_NOTICE)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"lost_with_notice": self.lost_with_notice}


def account(
    steps: Sequence[DoneStep], states: Sequence[tuple[float, str]], events: Sequence[DoneEvent]
) -> SideResult:
    """The figures of a run; ``states`` are the times of the samples and the state of the job at each."""
    held = sum(later[0] - time for (time, state), later in pairwise(states) if state in HOLDS_NODES)
    kept, usual = len(last_of_each(steps)), statistics.median(one.seconds for one in steps)
    return SideResult(
        goodput=kept * usual / held,
        allocated_seconds=held,
        kept_steps=kept,
        replayed_steps=len(steps) - kept,
        step_seconds=usual,
        recoveries=tuple(recoveries(steps, events)),
    )


def last_of_each(steps: Sequence[DoneStep]) -> Mapping[int, DoneStep]:
    """The steps that count: of one that was trained again, the last."""
    return {one.step: one for one in sorted(steps, key=lambda one: one.time)}


def recoveries(steps: Sequence[DoneStep], events: Sequence[DoneEvent]) -> list[Recovery]:
    """The cost of each event: from the steps up to the next one."""
    ends = [*(event.time for event in events[1:]), float("inf")]
    return [_recovery(steps, event, end) for event, end in zip(events, ends, strict=True)]


def _recovery(steps: Sequence[DoneStep], event: DoneEvent, end: float) -> Recovery:
    attempt = max((one.attempt for one in steps if one.time <= event.time), default=0)
    before = [one for one in steps if one.attempt <= attempt]
    # An attempt that began in vain counts as well: it left no step.
    after = [one for one in steps if one.attempt > attempt and event.time < one.time <= end]
    if not after:
        return Recovery(event.kind, None, None)
    reached, first = max((one.step for one in before), default=0), min(one.step for one in after)
    new = [one.time for one in after if one.step > reached]
    return Recovery(event.kind, max(0, reached + 1 - first), min(new) - event.time if new else None)


def largest_difference(steps: Sequence[DoneStep], unbroken: Sequence[DoneStep]) -> tuple[int, float]:
    """How many kept steps both runs have, and the largest difference of their losses."""
    mine, other = last_of_each(steps), last_of_each(unbroken)
    both = mine.keys() & other.keys()
    return len(both), max((abs(mine[step].loss - other[step].loss) for step in both), default=float("nan"))
