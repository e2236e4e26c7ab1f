"""The attempts of a run: when each trained, under which plan, how it ended, and what was done again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import EvalRecord, HardwareRecord, Record, SaveRecord, StepRecord, Verdict
from gemfit.schemas.plan import Plan
from gemfit.schemas.report_facts import Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt that left at least one record."""

    number: int
    plan: Plan
    begin: float
    end: float
    """Of its first and last record, in seconds since the Unix epoch."""
    steps: tuple[StepRecord, ...]
    """All that it did."""
    redone: tuple[StepRecord, ...]
    """Those of them that a later attempt did again."""
    how: str
    reason: str
    nodes: tuple[str, ...] = ()

    @property
    def first_step(self) -> int | None:
        return self.steps[0].step if self.steps else None

    @property
    def last_step(self) -> int | None:
        return self.steps[-1].step if self.steps else None


def make_attempts(
    run: RunDir, records: Sequence[Record], *, state: str, endings: Sequence[Ending]
) -> tuple[Attempt, ...]:
    """The attempts in ``records``, oldest first."""
    grouped: dict[int, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.attempt, []).append(record)
    verdict, told = run.verdict(), {ending.attempt: ending for ending in endings}
    made: list[Attempt] = []
    least = math.inf
    for number in sorted(grouped, reverse=True):
        own = grouped[number]
        steps = tuple(record for record in own if isinstance(record, StepRecord))
        # A later attempt does again whatever lies at or behind its first step.
        redone = tuple(step for step in steps if step.step >= least)
        least = min([least, *(step.step for step in steps[:1])])
        how, reason = _ending(
            number, run.attempt, verdict=verdict, state=state, told=told.get(number), redone=len(redone)
        )
        made.append(
            Attempt(
                number=number,
                plan=_plan_of(run, number),
                begin=min(map(_begin, own)),
                end=max(record.time for record in own),
                steps=steps,
                redone=redone,
                how=how,
                reason=reason,
                nodes=told[number].nodes if number in told else (),
            )
        )
    return tuple(reversed(made))


def _begin(record: Record) -> float:
    """When what a record tells of began."""
    match record:
        case StepRecord(seconds=float(seconds)) | EvalRecord(seconds=float(seconds)):
            return record.time - seconds
        case SaveRecord():
            return record.time - record.write_seconds
        case HardwareRecord():
            return record.time
    return record.time


def _plan_of(run: RunDir, number: int) -> Plan:
    """The plan that an attempt carried out: the first that was put aside after it, else that of the run."""
    aside = [n for n in range(number, run.attempt + 1) if run.earlier_plan(n).is_file()]
    return Plan.read(run.earlier_plan(aside[0])) if aside else run.plan()


def _ending(
    number: int, last: int, *, verdict: Verdict | None, state: str, told: Ending | None, redone: int
) -> tuple[str, str]:
    """How an attempt ended, and why; where nothing was written down, what its records show.

    ``last`` is the number of the newest attempt, which may have left no record.
    """
    if verdict is not None and verdict.attempt == number:
        return verdict.outcome, verdict.reason
    if told is not None:
        return told.how, told.reason
    if number == last:
        return state, ""
    if redone:
        return "broken off", f"its last {redone:,} steps were not saved, and done again"
    return "ended", "none of its steps was done again"
