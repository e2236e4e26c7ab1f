"""Goodput: which share of the allocated GPU-seconds became kept steps, and where the rest went.

For each attempt, with its ranks R, I more on nodes that it left idle, and its wall time T from begin to end::

    (R + I) * T = kept + start + evaluation + saving + replayed + idle slots + idle nodes + slow-rank wait
        + hang + other

A step counts with its recorded seconds; where only every k-th step is recorded, the record stands for k, and
steps after the last record that a checkpoint or an evaluation shows last as long as the median.
Time in a queue is not allocated, and apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.goodput import Goodput, GoodputPart
from gemfit.schemas.metrics import EvalRecord, Record, SaveRecord
from gemfit.schemas.plan import Plan
from gemfit.summary.attempts import AttemptSummary, plan_of_attempt
from gemfit.summary.format import NOTHING, plural

LOST_WORK = (AttemptOutcome.CRASHED, AttemptOutcome.INTERRUPTED, AttemptOutcome.CANCELLED)
"""Outcomes after which the time since the last record was an unfinished step."""
HUNG = "hung"
"""How the reason of an attempt begins that was ended because of a hang."""
PARTS: tuple[GoodputPart, ...] = get_args(GoodputPart)
Seconds = dict[GoodputPart, float]


@dataclass(frozen=True, slots=True)
class StepsOfRecord:
    """The steps that one record stands for: its own, and those before it that were not recorded."""

    count: int
    replayed: int
    """Those that a later attempt trained again."""
    seconds: float
    """Of each."""
    wait_share: float
    """What a rank waited for the slowest one, 0 to 1 of them."""


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
    parts, left = dict.fromkeys(PARTS, 0.0), span[1] - span[0]
    saves = [record for record in records if isinstance(record, SaveRecord)]
    overheads: Seconds = {
        "evaluation": sum(r.seconds or 0.0 for r in records if isinstance(r, EvalRecord)),
        "saving": sum(save.stall_seconds for save in saves),
        "start": 0.0,
    }
    lasting: list[StepsOfRecord] = []
    if summary is not None and summary.first_step is not None:
        lasting, excess = _lasting_steps(summary, max(record.step for record in records))
        overheads["start"] = excess + _start_seconds(span[0], summary, records)
    for part, seconds in overheads.items():  # clocks that were set back may leave less than their sum
        parts[part] = min(seconds, left)
        left -= parts[part]
    whole = sum(one.count * one.seconds for one in lasting)
    # Records of every k-th step are an estimate of the others, which cannot last longer than there was time.
    scale = min(1.0, left / whole) if whole else 0.0
    for one in lasting:
        _add_steps(parts, one, scale, idle=plan.batch.idle_share)
    _add_tail(parts, max(0.0, left - whole), summary, saves)
    return parts


def _start_seconds(begin: float, summary: AttemptSummary, records: Sequence[Record]) -> float:
    """From the begin of an attempt to its first step, without evaluations before it."""
    if summary.start is None:
        ended, lasted = summary.steps[0].time, summary.steps[0].seconds or 0.0
    else:
        ended, lasted = summary.start.time, summary.start.parts.get("first step", 0.0)
    step = summary.first_step or 0
    before = sum(r.seconds or 0.0 for r in records if isinstance(r, EvalRecord) and r.step < step)
    return max(0.0, ended - lasted - begin - before)


def _lasting_steps(summary: AttemptSummary, reached: int) -> tuple[list[StepsOfRecord], float]:
    """All steps up to ``reached``; and by how much the first one was slower than usual.

    That is compilation, allocation and warming up, which belong to the start. Steps after the last record
    last as long as usual: where every k-th step is recorded, an attempt may save and end between two.
    """
    steps, start, first = summary.steps, summary.start, summary.first_step or 0
    slowest = steps[0].seconds or 0.0 if start is None else start.parts.get("first step", 0.0)
    usual = statistics.median([one.seconds or 0.0 for one in steps if one.step != first] or [slowest])
    lasting = []
    for one, count, replayed in zip(steps, summary.counts, summary.repeats, strict=True):
        seconds = min(slowest, usual) if one.step == first else one.seconds or 0.0
        waited = min(1.0, (one.wait_seconds or 0.0) / one.seconds) if one.seconds else 0.0
        lasting.append(StepsOfRecord(count, replayed, seconds, waited))
    done = steps[-1].step if steps else first - 1
    replayed = int(max(0, reached - max(done, summary.superseded_from - 1)))
    lasting.append(StepsOfRecord(max(0, reached - done), replayed, usual, 0.0))
    return lasting, max(0.0, slowest - usual)


def _add_steps(parts: Seconds, one: StepsOfRecord, scale: float, *, idle: float) -> None:
    parts["replayed steps"] += one.replayed * one.seconds * scale
    seconds = (one.count - one.replayed) * one.seconds * scale
    waited = one.wait_share * seconds
    parts["slow-rank wait"] += waited
    parts["idle slots"] += (seconds - waited) * idle
    parts["kept steps"] += (seconds - waited) * (1 - idle)


def _add_tail(
    parts: Seconds, remainder: float, summary: AttemptSummary | None, saves: Sequence[SaveRecord]
) -> None:
    """Add what neither a step nor an evaluation nor a stall covers."""
    part = _tail_part(summary)
    if part == "other":  # an attempt that ends in order waits for its last checkpoint
        last = summary.steps[-1].time if summary is not None and summary.steps else 0.0
        writing = min(remainder, sum(save.write_seconds for save in saves if save.time > last))
        parts["saving"] += writing
        remainder -= writing
    parts[part] += remainder


def _tail_part(summary: AttemptSummary | None) -> GoodputPart:
    if summary is not None and summary.reason.startswith(HUNG):
        return "hang"
    if summary is None or summary.first_step is None:
        return "start"
    return "replayed steps" if summary.outcome in LOST_WORK else "other"
