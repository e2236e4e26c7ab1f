"""Axes of training charts: optimizer steps or wall time, with attempts shaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter

from gemfit.report.drawing import BAND, FAINT, POINTS, line, thousands
from gemfit.report.load import RunReport
from gemfit.schemas.metrics import EvalRecord, SaveRecord, StepRecord

NUMBERED = 12
"""Most attempts whose numbers fit above a chart."""
LEAST_POINTS = 20
"""Least points of an attempt."""
FEW_POWERS = 1000.0
"""Range of a logarithmic axis up to which ticks between powers of ten are labelled."""
UNITS = ((3 * 86400, 86400, "days"), (3 * 3600, 3600, "hours"), (300, 60, "minutes"), (0, 1, "seconds"))
Dated = StepRecord | EvalRecord | SaveRecord
Values = Callable[[StepRecord], float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """The x axis of a chart: steps, or wall time."""

    label: str
    at: Callable[[Dated], float]
    starts: tuple[tuple[int, float, float], ...]
    """Number, first and last x of each attempt."""


def by_step(run: RunReport) -> Axis:
    """Optimizer steps; an attempt begins after the step that it resumed from."""
    starts = []
    for attempt in run.attempts:
        own = [step.step for step in run.steps if step.attempt == attempt.number]
        if own:
            starts.append((attempt.number, float(own[0] - 1), float(own[-1])))
    return Axis("optimizer step", lambda record: float(record.step), tuple(starts))


def by_time(run: RunReport) -> Axis:
    """Wall time since the first record."""
    begin = run.attempts[0].begin
    whole = run.attempts[-1].end - begin
    scale, unit = next((scale, unit) for least, scale, unit in UNITS if whole >= least)
    starts = tuple((a.number, (a.begin - begin) / scale, (a.end - begin) / scale) for a in run.attempts)
    return Axis(f"wall time ({unit})", lambda record: (record.time - begin) / scale, starts)


def shade_attempts(axes: Any, axis: Axis) -> None:
    """Every other attempt is shaded; each but the first begins at a dotted line with its number."""
    if len(axis.starts) < 2:
        return
    for index, (number, begin, end) in enumerate(axis.starts):
        if index % 2:
            axes.axvspan(begin, end, color=BAND, zorder=0, linewidth=0)
        if index:
            axes.axvline(begin, color=FAINT, linestyle=":", linewidth=1)
        if index and len(axis.starts) <= NUMBERED:
            place = axes.get_xaxis_transform()
            axes.text(begin, 1.01, f"{number}", transform=place, fontsize=8, color=FAINT, ha="center")


def draw_attempts(
    axes: Any, axis: Axis, steps: Sequence[StepRecord], of: Values, *, label: str | None = None, **style: Any
) -> None:
    """One line per attempt, so that none crosses a pause; together they have about ``POINTS`` points."""
    for index, (_, group) in enumerate(groupby(steps, key=lambda step: step.attempt)):
        own = list(group)
        points = max(LEAST_POINTS, POINTS * len(own) // len(steps))
        name = label if index == 0 else None
        line(axes, map(axis.at, own), map(of, own), points=points, label=name, **style)


def make_logarithmic(axes: Any) -> None:
    """A logarithmic y axis with plain numbers as labels."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high / low < FEW_POWERS:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def draw_points(
    axes: Any, points: Sequence[tuple[float, float]], color: str, marker: str, label: str
) -> None:
    """Markers of single events."""
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=color, marker=marker, markersize=5, linestyle="none", label=label)


def finish(axes: Any) -> None:
    """Add a grid, and integer ticks for steps."""
    axes.grid(visible=True, alpha=0.7)
    axes.set_axisbelow(True)
    if axes.get_xlabel() == "optimizer step":
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter(thousands)


def from_to(values: Sequence[float | None], form: str) -> str:
    """First, last and extreme values as text."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return "no finite number"
    first, last, low, high = (form.format(v) for v in (found[0], found[-1], min(found), max(found)))
    return f"from {first} to {last} (lowest {low}, highest {high})"
