"""Attempts of a run: plan, time, steps, hardware and energy of each, and how it ended."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar, get_args

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.metrics import (
    EnergyRecord,
    EvalRecord,
    Gpu,
    HardwareRecord,
    Record,
    SaveRecord,
    StartPart,
    StartRecord,
    StepRecord,
)
from gemfit.schemas.plan import Plan
from gemfit.schemas.report_facts import Ending
from gemfit.summary.format import NOTHING, duration
from gemfit.summary.text_table import TextTable

Kind = TypeVar("Kind", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSummary:
    """One attempt that left at least one record."""

    number: int
    plan: Plan
    begin: float
    """When its first record began, in seconds since the Unix epoch: its command, if it finished a step."""
    end: float
    """Time of its last record."""
    steps: tuple[StepRecord, ...]
    """All that it trained."""
    counts: tuple[int, ...]
    """How many steps each of these records stands for: its own, and those before it without a record."""
    repeats: tuple[int, ...]
    """How many of those steps a later attempt trained again."""
    superseded_from: float
    """First step of any later attempt, whose steps count in place of its own; infinite without one."""
    hardware: HardwareRecord | None
    """``None`` for an attempt by an older version."""
    energy: EnergyRecord | None
    """``None`` where it did not end in order."""
    start: StartRecord | None
    """``None`` where it did not finish a step."""
    outcome: str
    """An `AttemptOutcome`, the state of the run for its last attempt, or `ended` where nothing says how."""
    reason: str
    nodes: tuple[str, ...] = ()
    """Nodes that failed."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    @property
    def first_step(self) -> int | None:
        """The first that it trained, which need not be recorded; ``None`` where it did not finish a step."""
        if self.start is not None:
            return self.start.step
        return self.steps[0].step if self.steps else None

    @property
    def repeated(self) -> tuple[StepRecord, ...]:
        """Records of steps that a later attempt trained again."""
        return tuple(step for step, count in zip(self.steps, self.repeats, strict=True) if count)

    @property
    def last_step(self) -> int | None:
        return self.steps[-1].step if self.steps else None


def summarize_attempts(
    run: RunDir, records: Sequence[Record], *, state: str = "", endings: Sequence[Ending] = ()
) -> tuple[AttemptSummary, ...]:
    """The attempts in ``records``, oldest first; ``endings`` is what Slurm jobs have recorded."""
    grouped: dict[int, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.attempt, []).append(record)
    verdict, ended = run.verdict(), {ending.attempt: ending for ending in endings}
    made: list[AttemptSummary] = []
    first_later_step = math.inf
    for number in sorted(grouped, reverse=True):
        own, ending = grouped[number], ended.get(number)
        steps = _of_kind(StepRecord, own)
        start = next(iter(_of_kind(StartRecord, own)), None)
        first = start or next(iter(steps), None)
        spans = list(pairwise([first.step - 1, *(step.step for step in steps)] if first else []))
        # A later attempt repeats every step from its own first one on.
        repeats = tuple(int(max(0, last - max(before, first_later_step - 1))) for before, last in spans)
        outcome, reason = _outcome(number, run, verdict, state, ending, sum(repeats))
        made.append(
            AttemptSummary(
                number=number,
                plan=plan_of_attempt(run, number),
                begin=min(map(_begin, own)),
                end=max(record.time for record in own),
                steps=steps,
                counts=tuple(max(0, last - before) for before, last in spans),
                repeats=repeats,
                superseded_from=first_later_step,
                hardware=next(iter(_of_kind(HardwareRecord, own)), None),
                energy=next(iter(_of_kind(EnergyRecord, own)), None),
                start=start,
                outcome=outcome,
                reason=reason,
                nodes=ending.nodes if ending else (),
            )
        )
        first_later_step = min(first_later_step, made[-1].first_step or math.inf)
    return tuple(reversed(made))


def steps_per_record(steps: Sequence[StepRecord]) -> list[int]:
    """How many steps each record stands for: its own, and those before it that were not recorded."""
    return [after - before for before, after in pairwise([0, *(step.step for step in steps)])]


def attempt_table(attempts: Sequence[AttemptSummary]) -> TextTable:
    """When each attempt trained, which steps, how and on what."""
    rows = tuple(
        (
            str(one.number),
            datetime.fromtimestamp(one.begin, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            duration(one.seconds),
            f"{one.first_step:,} to {one.last_step:,}" if one.steps else "none",
            one.plan.recipe.strategy.label,
            str(one.hardware.ranks if one.hardware else one.plan.topology.world_size),
            devices(one.hardware) if one.hardware else f"not recorded ({one.plan.topology.device})",
        )
        for one in attempts
    )
    heads = ("attempt", "began (UTC)", "took", "steps", "strategy", "ranks", "devices")
    return TextTable("Attempts", heads, rows)


def start_table(attempts: Sequence[AttemptSummary]) -> TextTable:
    """Seconds from the command to the end of the first step of each attempt, and their parts."""
    starts = [one.start for one in attempts if one.start is not None]
    parts = [part for part in get_args(StartPart) if any(part in start.parts for start in starts)]
    rows = tuple(
        (
            str(start.attempt),
            f"{start.seconds:.1f}",
            *(f"{start.parts[part]:.1f}" if part in start.parts else NOTHING for part in parts),
        )
        for start in starts
    )
    return TextTable("Seconds to the end of the first step", ("attempt", "all", *parts), rows)


def devices(hardware: HardwareRecord) -> str:
    """GPUs of each kind, else CPUs."""
    names = [_gpu(gpu) for gpu in hardware.gpus] or [
        f"{host.cpu}, {host.cores} logical cores, {host.memory / 2**30:.0f} GiB" for host in hardware.hosts
    ]
    return "; ".join(f"{count} x {name}" for name, count in Counter(names).items())


def _gpu(gpu: Gpu) -> str:
    limit = "" if gpu.power_limit_watts is None else f", {gpu.power_limit_watts:.0f} W"
    return f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB{limit}"


def plan_of_attempt(run: RunDir, number: int) -> Plan:
    """The plan that an attempt carried out: the first that was replaced after it, else that of the run."""
    replaced = (run.earlier_plan(later) for later in range(number, run.attempt + 1))
    earlier = next((path for path in replaced if path.is_file()), None)
    return run.plan() if earlier is None else Plan.read(earlier)


def _of_kind(kind: type[Kind], records: Iterable[Record]) -> tuple[Kind, ...]:
    return tuple(record for record in records if isinstance(record, kind))


def _begin(record: Record) -> float:
    """Records are written at the end of what they measure."""
    match record:
        case StepRecord(seconds=float(seconds)) | EvalRecord(seconds=float(seconds)):
            return record.time - seconds
        case SaveRecord():
            return record.time - record.write_seconds
        case StartRecord():
            return record.time - record.seconds
    return record.time


def _outcome(
    number: int, run: RunDir, verdict: Verdict | None, state: str, ending: Ending | None, repeated: int
) -> tuple[str, str]:
    """How an attempt ended and why: as recorded, else as far as its metrics show."""
    if verdict is not None and verdict.attempt == number:
        return verdict.outcome, verdict.reason
    if ending is not None:
        return ending.outcome, ending.reason
    if number == run.attempt:  # the newest attempt may have left no record
        return state, ""
    if repeated:
        return (
            AttemptOutcome.INTERRUPTED,
            f"its last {repeated:,} steps were not saved, and were trained again",
        )
    return "ended", "none of its steps was trained again"
