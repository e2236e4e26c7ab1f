"""The attempts of a run: on what, how long, under which plan. Read from its metric lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import EnergyRecord, HardwareRecord, Record, StepRecord
from gemfit.schemas.metrics_history import read_records
from gemfit.schemas.plan import Plan


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as far as it led to the step that is looked at."""

    number: int
    plan: Plan
    hardware: HardwareRecord | None
    """``None`` for an attempt by an older version."""
    energy: EnergyRecord | None
    """``None`` where the attempt did not end in order, or trained on beyond the step that is looked at."""
    first_step: int
    last_step: int
    seconds: float
    """From the start of training to its last record: steps, evaluations, saves and what lies between.
    Starting the processes and reading the weights is not in it."""


def read_attempts(run: RunDir, step: int) -> tuple[Attempt, ...]:
    """Every attempt that trained a step up to ``step``, in order; what it did beyond is left out."""
    by_attempt: dict[int, list[Record]] = {}
    for record in read_records(run.metrics_file):
        if record.step <= step:
            by_attempt.setdefault(record.attempt, []).append(record)
    return tuple(_attempts(run, by_attempt))


def _attempts(run: RunDir, by_attempt: dict[int, list[Record]]) -> Iterator[Attempt]:
    for number, records in sorted(by_attempt.items()):
        steps = [record for record in records if isinstance(record, StepRecord)]
        if not steps:
            continue
        yield Attempt(
            number=number,
            plan=plan_of_attempt(run, number),
            hardware=next((record for record in records if isinstance(record, HardwareRecord)), None),
            energy=next((record for record in records if isinstance(record, EnergyRecord)), None),
            first_step=steps[0].step,
            last_step=steps[-1].step,
            seconds=max(record.time for record in records) - _began(records, steps),
        )


def _began(records: Sequence[Record], steps: Sequence[StepRecord]) -> float:
    first = records[0]
    if isinstance(first, HardwareRecord):
        return first.time
    # Records are written when something is done, so the first thing began as long before as it took.
    taken = getattr(first, "seconds", None) or 0.0
    return min(first.time - taken, steps[0].time - (steps[0].seconds or 0.0))


def plan_of_attempt(run: RunDir, attempt: int) -> Plan:
    """What ``attempt`` carried out: a plan that was replaced is kept with the last attempt under it."""
    kept = (run.earlier_plan(number) for number in range(attempt, run.attempt + 1))
    earlier = next((path for path in kept if path.is_file()), None)
    return run.plan() if earlier is None else Plan.read(earlier)
