"""What trackers get of a run: one point per step, from records that no later attempt can replace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gemfit.schemas.metrics import EvalRecord, StepRecord
from gemfit.schemas.metrics_history import History
from gemfit.tracking.tracker_state import SentSteps

STEP_METRICS = ("loss", "learning_rate", "grad_norm", "epoch", "tokens_per_second", "wait_seconds")
EVAL_METRICS = ("loss", "perplexity", "token_accuracy")


class TrackerPoint(NamedTuple):
    """The metrics of one step."""

    step: int
    attempt: int
    time: float
    """Seconds since the Unix epoch."""
    values: dict[str, float]
    """By name, as transformers names them: `train/loss`, `eval/loss`, …"""


def final_points(history: History, *, completed: bool, active: bool) -> list[TrackerPoint]:
    """Points of the steps of ``history`` that are final, in order.

    A step is final once a checkpoint holds it: no resume trains it again. While the run is ``active`` the
    newest step is left out, because its evaluation may follow. In a ``completed`` run every step is final.
    """
    points: dict[int, TrackerPoint] = {}
    for step in history.steps:
        points[step.step] = _point(step, "train", STEP_METRICS)
    for found in history.evaluations:
        made = _point(found, "eval", EVAL_METRICS)
        if (same := points.get(found.step)) is not None:
            made = same._replace(values=same.values | made.values)
        points[found.step] = made
    last = max(points, default=-1)
    if not completed:
        last = min(max((save.step for save in history.saves), default=-1), last - active)
    return [points[step] for step in sorted(points) if step <= last]


def sent_steps(points: Sequence[TrackerPoint]) -> tuple[SentSteps, ...]:
    """Which attempts have trained the steps of ``points``."""
    made: list[SentSteps] = []
    for point in points:
        if made and made[-1].attempt == point.attempt:
            made.pop()
        made.append(SentSteps(attempt=point.attempt, last_step=point.step))
    return tuple(made)


def still_hold(sent: Sequence[SentSteps], points: Sequence[TrackerPoint]) -> bool:
    """Whether the steps that were ``sent`` are those of ``points``: none of them was trained again."""
    last = sent[-1].last_step if sent else -1
    return sent_steps([point for point in points if point.step <= last]) == tuple(sent)


def _point(record: StepRecord | EvalRecord, prefix: str, metrics: Sequence[str]) -> TrackerPoint:
    values = {f"{prefix}/{name}": getattr(record, name) for name in metrics}
    known = {name: float(value) for name, value in values.items() if value is not None}
    return TrackerPoint(record.step, record.attempt, record.time, known)
