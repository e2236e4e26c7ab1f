"""Goodput: which share of the allocated GPU-seconds became kept steps, and where the rest went.

For each attempt, with its ranks R, I more on nodes that it left idle, and its wall time T from begin to end::

    (R + I) * T = kept + start + evaluation + saving + replayed + idle slots + idle nodes + slow-rank wait
        + hang + other

A step counts with its recorded seconds; where only every k-th step is recorded, the record stands for k.
Time in a queue is not allocated, and apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.goodput import Goodput, GoodputPart
from gemfit.schemas.metrics import EvalRecord, Record, SaveRecord, StepRecord
from gemfit.schemas.plan import Plan
from gemfit.summary.attempts import AttemptSummary, plan_of_attempt
from gemfit.summary.format import NOTHING, plural

LOST_WORK = (AttemptOutcome.CRASHED, AttemptOutcome.INTERRUPTED, AttemptOutcome.CANCELLED)
"""Outcomes after which the time since the last record was an unfinished step."""
HUNG = "hung"
"""How the reason of an attempt begins that was ended because of a hang."""
PARTS: tuple[GoodputPart, ...] = get_args(GoodputPart)
Seconds = dict[GoodputPart, float]


def measure_goodput(
    run: RunDir, records: Sequence[Record], attempts: Sequence[AttemptSummary], price: float | None = None
) -> Goodput | None:
    """Goodput over all attempts of ``run``; ``None`` before the first has left a record or has ended.

    ``attempts`` are those of ``summarize_attempts`` for the same ``records``. An attempt that is known by
    its begin and end alone, because it left no record, was all start.
    """
    by_number, spans = {one.number: one for one in attempts}, []
    total: Seconds = dict.fromkeys(PARTS, 0.0)
    sizes: list[int] = []
    for number in range(1, run.attempt + 1):
        summary, plan = by_number.get(number), plan_of_attempt(run, number)
        span = _span(run, number, summary)
        if span is None:
            continue
        ranks = summary.hardware.ranks if summary and summary.hardware else plan.topology.world_size
        own = [record for record in records if record.attempt == number]
        parts = _parts(span, summary, own, plan)
        for part, seconds in parts.items():
            total[part] += ranks * seconds
        idle = run.attempt_record(number).idle_nodes * plan.topology.ranks_per_node
        total["idle nodes"] += idle * (span[1] - span[0])
        spans.append(span)
        sizes += [ranks] if sizes[-1:] != [ranks] else []
    allocated = sum(total.values())
    if not allocated:
        return None
    return Goodput(
        allocated_seconds=allocated,
        parts=total,
        between_seconds=sum(max(0.0, later[0] - earlier[1]) for earlier, later in pairwise(spans)),
        attempts=len(spans),
        ranks=tuple(sizes),
        device=run.plan().topology.device,
        share=total["kept steps"] / allocated,
        price=price,
        cost=None if price is None else {part: s / 3600 * price for part, s in total.items()},
    )


def goodput_line(goodput: Goodput) -> str:
    """Such as ``goodput 71.2 % of 12.3 GPU-hours: start 8.1 %, saving 3.0 %``; with a price, in money."""
    unit = "GPU-hours" if goodput.device == "cuda" else "CPU rank-hours"
    whole = goodput.allocated_seconds
    lost = [
        f"{part} {seconds / whole:.1%}"
        for part, seconds in goodput.parts.items()
        if part != "kept steps" and seconds / whole >= 0.0005
    ]
    cost = goodput.cost
    money = (
        f"; at {goodput.price:,.2f} per hour: {sum(cost.values()):,.2f}, of it {cost['kept steps']:,.2f} for "
        "kept steps"
        if cost is not None
        else ""
    )
    return (
        f"goodput {goodput.share:.1%} of {whole / 3600:,.2f} {unit} "
        f"in {plural(goodput.attempts, 'attempt')}; "
        f"the rest: {', '.join(lost) or NOTHING}{money}"
    )


def _span(run: RunDir, number: int, summary: AttemptSummary | None) -> tuple[float, float] | None:
    """Begin and end of an attempt; ``None`` where neither its records nor its launcher tell both."""
    record = run.attempt_record(number)
    begins = [time for time in (record.began, summary.begin if summary else None) if time is not None]
    ends = [time for time in (record.ended, summary.end if summary else None) if time is not None]
    return (min(begins), max(ends)) if begins and ends else None


def _parts(
    span: tuple[float, float], summary: AttemptSummary | None, records: Sequence[Record], plan: Plan
) -> Seconds:
    """Seconds of one rank in an attempt, by cause: they sum to its span of time."""
    parts, wall = dict.fromkeys(PARTS, 0.0), span[1] - span[0]
    evaluations = sum(r.seconds or 0.0 for r in records if isinstance(r, EvalRecord))
    saves = [record for record in records if isinstance(record, SaveRecord)]
    parts["evaluation"] = min(evaluations, wall)
    parts["saving"] = sum(save.stall_seconds for save in saves)
    if summary is None or not summary.steps:
        parts["saving"] = 0.0
        parts[_tail_part(summary, "start")] = wall - parts["evaluation"]
        return parts
    lasting, excess = _step_seconds(summary)
    parts["start"] = excess + _start_seconds(span[0], summary, records)
    remainder = wall - sum(parts.values()) - sum(lasting)
    # Records of every k-th step are an estimate of the others, which cannot last longer than there was time.
    scale = 1.0 if remainder >= 0 else max(0.0, 1 + remainder / sum(lasting))
    repeated = {step.step for step in summary.repeated}
    for step, seconds in zip(summary.steps, lasting, strict=True):
        _add_step(parts, step, seconds * scale, replayed=step.step in repeated, idle=plan.batch.idle_share)
    _add_tail(parts, max(0.0, remainder), summary, saves)
    return parts


def _start_seconds(begin: float, summary: AttemptSummary, records: Sequence[Record]) -> float:
    """From the begin of an attempt to its first step, without evaluations before it."""
    first, start = summary.steps[0], summary.start
    ended, lasted = (
        (first.time, first.seconds or 0.0)
        if start is None
        else (start.time, start.parts.get("first step", 0.0))
    )
    step = first.step if start is None else start.step
    before = sum(r.seconds or 0.0 for r in records if isinstance(r, EvalRecord) and r.step < step)
    return max(0.0, ended - lasted - begin - before)


def _step_seconds(summary: AttemptSummary) -> tuple[list[float], float]:
    """Seconds that each record of a step stands for; and by how much the first step was slower than usual.

    That is compilation, allocation and warming up, which belong to the start.
    """
    steps = summary.steps
    usual = statistics.median([step.seconds or 0.0 for step in steps[1:]] or [steps[0].seconds or 0.0])
    start = summary.start
    first = start.step if start is not None else steps[0].step
    slowest = start.parts.get("first step", 0.0) if start is not None else steps[0].seconds or 0.0
    counts = [steps[0].step - first + 1, *(after.step - before.step for before, after in pairwise(steps))]
    lasting = [count * (step.seconds or 0.0) for count, step in zip(counts, steps, strict=True)]
    if steps[0].step == first:
        lasting[0] = min(slowest, usual)
    return lasting, max(0.0, slowest - usual)


def _add_step(parts: Seconds, step: StepRecord, seconds: float, *, replayed: bool, idle: float) -> None:
    if replayed:
        parts["replayed steps"] += seconds
        return
    waited = min(1.0, (step.wait_seconds or 0.0) / step.seconds) * seconds if step.seconds else 0.0
    parts["slow-rank wait"] += waited
    parts["idle slots"] += (seconds - waited) * idle
    parts["kept steps"] += (seconds - waited) * (1 - idle)


def _add_tail(parts: Seconds, remainder: float, summary: AttemptSummary, saves: Sequence[SaveRecord]) -> None:
    """Add what neither a step nor an evaluation nor a stall covers."""
    part = _tail_part(summary, "other")
    last = summary.steps[-1].time
    if part == "other":  # an attempt that ends in order waits for its last checkpoint
        writing = min(remainder, sum(save.write_seconds for save in saves if save.time > last))
        parts["saving"] += writing
        remainder -= writing
    parts[part] += remainder


def _tail_part(summary: AttemptSummary | None, otherwise: GoodputPart) -> GoodputPart:
    if summary is not None and summary.reason.startswith(HUNG):
        return "hang"
    if summary is not None and summary.steps and summary.outcome in LOST_WORK:
        return "replayed steps"
    return otherwise
