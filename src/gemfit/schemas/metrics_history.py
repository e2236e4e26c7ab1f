"""Metrics of a run over all its attempts; steps that were repeated after a resume count once.

The record of the later attempt wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gemfit.core.jsonl_log import has_whole_line, read_log
from gemfit.errors import UserError
from gemfit.schemas.metrics import (
    EnergyRecord,
    EvalRecord,
    HardwareRecord,
    MemoryRecord,
    Record,
    SaveRecord,
    SlowRankRecord,
    StartRecord,
    StepRecord,
    parse_record,
)
from gemfit.schemas.plan import Plan

Standing = TypeVar("Standing", StepRecord, EvalRecord, SaveRecord)


@dataclass(frozen=True, slots=True)
class History:
    """Records of a run, each step once."""

    steps: tuple[StepRecord, ...]
    evaluations: tuple[EvalRecord, ...]
    resumed_at: tuple[int, ...]
    """The last step before each later attempt."""
    saves: tuple[SaveRecord, ...] = ()
    memory: tuple[MemoryRecord, ...] = ()
    """Of each attempt that ended normally, in order."""
    hardware: tuple[HardwareRecord, ...] = ()
    """Of each attempt, in order; none of an attempt by an older version."""
    energy: tuple[EnergyRecord, ...] = ()
    """Of each attempt that ended normally, in order."""
    slow_ranks: tuple[SlowRankRecord, ...] = ()
    """Of all attempts, in order."""


def read_history(metrics: Path) -> History:
    """The records of ``metrics``; a later attempt supersedes what an earlier one did from its start on.

    A missing file and a file without a step are a ``UserError``; lines that a crash has cut are skipped.
    """
    return make_history(read_records(metrics), metrics)


def make_history(records: Sequence[Record], metrics: Path) -> History:
    """The history in the ``records`` of ``metrics``; ``UserError`` without a step."""
    # The first step of an attempt need not be recorded; the record of its start names it.
    firsts: dict[int, int] = {}
    for record in records:
        if isinstance(record, StepRecord | StartRecord):
            firsts[record.attempt] = min(record.step, firsts.get(record.attempt, record.step))
    steps = _standing([record for record in records if isinstance(record, StepRecord)], firsts)
    if not steps:
        raise UserError(f"{metrics}: holds no training step yet")
    evaluations = [record for record in records if isinstance(record, EvalRecord)]
    return History(
        steps=steps,
        evaluations=_standing(evaluations, firsts),
        resumed_at=tuple(first - 1 for attempt, first in firsts.items() if attempt != min(firsts)),
        saves=_standing([record for record in records if isinstance(record, SaveRecord)], firsts),
        memory=tuple(record for record in records if isinstance(record, MemoryRecord)),
        hardware=tuple(record for record in records if isinstance(record, HardwareRecord)),
        energy=tuple(record for record in records if isinstance(record, EnergyRecord)),
        slow_ranks=tuple(record for record in records if isinstance(record, SlowRankRecord)),
    )


def plan_as_trained(plan: Plan, hardware: Iterable[HardwareRecord]) -> Plan:
    """``plan`` with the attention that its ranks took by the last of ``hardware``.

    Only a plan that leaves it open (`varlen if proven, else sdpa`) differs; without a record it stays open.
    """
    taken = next((record for record in reversed(tuple(hardware)) if record.attention), None)
    if plan.attention_if_proven is None or taken is None:
        return plan
    model = plan.recipe.model.model_copy(update={"attention": taken.attention})
    recipe = plan.recipe.model_copy(update={"model": model})
    changes = {"recipe": recipe, "attention_because": taken.attention_because, "attention_if_proven": None}
    return plan.model_copy(update=changes)


def read_records(metrics: Path) -> list[Record]:
    """Every record of ``metrics``, repeated steps included; lines that hold none are skipped with a warning.

    A missing file, and one that holds no record but other lines, are a ``UserError``.
    """
    if not metrics.is_file():
        raise UserError(f"{metrics}: there is no such file; it appears with the first training step")
    records = read_log(metrics, parse_record)
    if not records and has_whole_line(metrics):
        raise UserError(f"{metrics}: holds no record of this version of gemfit")
    return records


def _standing(records: Sequence[Standing], firsts: dict[int, int]) -> tuple[Standing, ...]:
    """The records that no later attempt has repeated, by step."""
    records = [
        record
        for record in records
        if all(record.step < first for attempt, first in firsts.items() if attempt > record.attempt)
    ]
    return tuple(sorted(records, key=lambda record: record.step))
