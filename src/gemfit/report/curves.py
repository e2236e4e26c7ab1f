"""Charts of the training: losses, schedule, gradients, speed, time and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from gemfit.records import EvalRecord, MemoryRecord, SaveRecord, StepRecord
from gemfit.report.blocks import Chart
from gemfit.report.drawing import BAND, FAINT, INK, POINTS, SERIES, line, smoothed, thousands
from gemfit.report.figures import mfu_of, time_shares
from gemfit.report.gather import Story
from gemfit.report.words import duration, plural, size

NUMBERED = 12
"""Attempts whose numbers find room above a chart."""
WAIT_SHOWN = 1000
"""A wait for data shorter than this part of a step is not drawn."""
LEAST_POINTS = 20
"""Of an attempt."""
SMOOTHED_FROM = 100
"""Steps from which on single losses are noise."""
FEW_POWERS = 1000.0
"""Highest over lowest end of a logarithmic axis up to which it has numbers between powers of ten."""
SPREAD = 30.0
"""Largest over smallest value from which on an axis is logarithmic."""
UNITS = ((3 * 86400, 86400, "days"), (3 * 3600, 3600, "hours"), (300, 60, "minutes"), (0, 1, "seconds"))
Dated = StepRecord | EvalRecord | SaveRecord
Values = Callable[[StepRecord], float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """What lies along a chart: steps, or wall time."""

    label: str
    at: Callable[[Dated], float]
    starts: tuple[tuple[int, float, float], ...]
    """Number, first and last place of each attempt."""


def by_step(story: Story) -> Axis:
    """Along the optimizer steps that count; an attempt begins behind the last step that it took over."""
    starts = []
    for attempt in story.attempts:
        own = [step.step for step in story.steps if step.attempt == attempt.number]
        if own:
            starts.append((attempt.number, float(own[0] - 1), float(own[-1])))
    return Axis("optimizer step", lambda record: float(record.step), tuple(starts))


def by_time(story: Story) -> Axis:
    """Along wall time since the first record."""
    begin = story.attempts[0].begin
    whole = story.attempts[-1].end - begin
    scale, unit = next((scale, unit) for least, scale, unit in UNITS if whole >= least)
    starts = tuple((a.number, (a.begin - begin) / scale, (a.end - begin) / scale) for a in story.attempts)
    return Axis(f"wall time ({unit})", lambda record: (record.time - begin) / scale, starts)


def training_charts(story: Story) -> tuple[Chart, ...]:
    """Every chart of the training that the records have something for."""
    steps, time = by_step(story), by_time(story)
    made = [
        _losses(story, steps, "loss", "loss by step"),
        _losses(story, time, "loss-by-time", "loss by wall time"),
        _simple(
            story, "learning-rate", "learning rate", "learning rate", lambda s: s.learning_rate, "{:.3g}"
        ),
    ]
    if any(step.grad_norm is not None for step in story.steps):
        made.append(_gradients(story))
    return tuple(made)


def speed_charts(story: Story) -> tuple[Chart, ...]:
    """Charts of speed, time and memory."""
    made = [
        _simple(
            story,
            "tokens-per-second",
            "tokens a second, all ranks",
            "tokens/s",
            lambda s: s.tokens_per_second,
            "{:,.0f}",
        )
    ]
    if any(value is not None for value in mfu_of(story)):
        by_number = dict(zip((s.step for s in story.steps), mfu_of(story), strict=True))
        made.append(
            _simple(story, "mfu", f"MFU on {story.facts.card}", "MFU", lambda s: by_number[s.step], "{:.1%}")
        )
    if any(step.seconds is not None for step in story.steps):
        made += [_step_time(story), _wall_time(story)]
    if story.history.memory:
        made.append(_memory(story, story.history.memory[-1]))
    return tuple(made)


def _losses(story: Story, axis: Axis, name: str, title: str) -> Chart:
    steps, evaluations = story.steps, story.history.evaluations

    def draw(axes: Any) -> None:
        _bands(axes, axis)
        window = max(1, len(steps) // 50) if len(steps) >= SMOOTHED_FROM else 1
        if window == 1:
            _lines(axes, axis, steps, lambda s: s.loss, color=SERIES[0], label="training")
        else:
            faint = {"alpha": 0.35, "linewidth": 0.8}
            _lines(axes, axis, steps, lambda s: s.loss, color=SERIES[0], label="training, each step", **faint)
            means = smoothed(np.array([s.loss for s in steps]), window).tolist()
            mean = dict(zip((s.step for s in steps), means, strict=True))
            _lines(axes, axis, steps, lambda s: mean[s.step], color=SERIES[0], label=f"mean of {window}")
        for index, attempt in enumerate(a for a in story.attempts if a.redone):
            gone = attempt.redone
            style = {"color": FAINT, "linestyle": ":", "linewidth": 1}
            _lines(axes, axis, gone, lambda s: s.loss, label=None if index else "done again", **style)
        if evaluations:
            x, y = [axis.at(e) for e in evaluations], [e.loss for e in evaluations]
            axes.plot(x, y, color=SERIES[1], marker="s", markersize=4, label="held-out")
        axes.set(title=title, xlabel=axis.label, ylabel="nats per token")
        _finish(axes)
        axes.legend(loc="upper right")

    says = f"Training loss {_from_to([s.loss for s in steps], '{:.4f}')} over {plural(len(steps), 'step')}."
    if evaluations:
        says += f" Held-out loss {_from_to([e.loss for e in evaluations], '{:.4f}')}."
    return Chart(name, f"{title}: {says}{_attempts_said(story)}", draw)


def _simple(story: Story, name: str, title: str, ylabel: str, of: Values, form: str) -> Chart:
    axis = by_step(story)

    def draw(axes: Any) -> None:
        _bands(axes, axis)
        _lines(axes, axis, story.steps, of, color=SERIES[0])
        axes.set(title=title, xlabel=axis.label, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        if form == "{:.3g}":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        else:
            axes.yaxis.set_major_formatter(lambda value, _: form.format(value))
        _finish(axes)

    return Chart(name, f"{title}: {_from_to(list(map(of, story.steps)), form)}.", draw)


def _gradients(story: Story) -> Chart:
    axis, bound = by_step(story), story.plan.recipe.optim.max_grad_norm
    norms = [s.grad_norm for s in story.steps if s.grad_norm is not None and math.isfinite(s.grad_norm)]
    above = sum(norm > bound for norm in norms)

    def draw(axes: Any) -> None:
        _bands(axes, axis)
        _lines(axes, axis, story.steps, lambda s: s.grad_norm, color=SERIES[0])
        axes.axhline(bound, color=SERIES[1], linestyle="--", linewidth=1, label=f"clipped above {bound:g}")
        axes.set(title="gradient norm before clipping", xlabel=axis.label, ylabel="L2 norm")
        if norms and min(norms) > 0 and max(*norms, bound) / min(*norms, bound) > SPREAD:
            _logarithmic(axes)
        else:
            axes.set_ylim(bottom=0)
        _finish(axes)
        axes.legend(loc="upper right")

    clipped = f"{plural(above, 'step')} of {len(story.steps):,} clipped"
    says = f"gradient norm: {_from_to(norms, '{:.3g}')}; {clipped}."
    return Chart("gradient-norm", says, draw)


def _step_time(story: Story) -> Chart:
    axis, steps, history = by_step(story), story.steps, story.history
    stalls = [(axis.at(save), save.stall_seconds) for save in history.saves if save.stall_seconds > 0]
    looks = [(axis.at(e), e.seconds) for e in history.evaluations if e.seconds]
    seconds = [s.seconds for s in steps if s.seconds is not None]
    least = float(np.median(seconds)) / WAIT_SHOWN
    waits = max((s.data_seconds or 0.0 for s in steps), default=0.0)

    def draw(axes: Any) -> None:
        _bands(axes, axis)
        _lines(axes, axis, steps, lambda s: s.seconds, color=SERIES[0], label="whole step")
        if waits > least:  # a zero has no place on a logarithmic axis
            style = {"color": SERIES[2], "label": "waiting for data"}
            _lines(axes, axis, steps, lambda s: s.data_seconds or None, **style)
        _dots(axes, stalls, SERIES[1], "v", "stall by a checkpoint")
        _dots(axes, looks, SERIES[3], "s", "held-out evaluation")
        axes.set(title="time of a step, and what comes between", xlabel=axis.label, ylabel="seconds")
        _logarithmic(axes)
        # Waits of microseconds are none: they would press all else together.
        axes.set_ylim(bottom=max(least, axes.get_ylim()[0]))
        _finish(axes)
        axes.legend(loc="best", ncols=2)

    says = f"time of a step: median {np.median(seconds):.3g} s, longest {max(seconds):.3g} s."
    if stalls:
        longest = max(stall for _, stall in stalls)
        says += f" {plural(len(stalls), 'checkpoint')} stalled it, by {longest:.3g} s at most."
    caption = f"Longest wait for data: {waits:.2g} s." if steps[0].data_seconds is not None else ""
    return Chart("step-time", f"{says} {caption}".strip(), draw, caption)


def _wall_time(story: Story) -> Chart:
    parts = {name: seconds for name, seconds in time_shares(story).items() if seconds > 0}
    whole = sum(parts.values()) or 1.0

    def draw(axes: Any) -> None:
        bars = axes.barh(list(parts), [seconds / whole for seconds in parts.values()], color=SERIES[0])
        labels = [f"{seconds / whole:.1%}  {duration(seconds)}" for seconds in parts.values()]
        axes.bar_label(bars, labels, padding=4)
        _bars_only(axes, "where the wall time went")

    said = ", ".join(f"{name} {seconds / whole:.1%} ({duration(seconds)})" for name, seconds in parts.items())
    return Chart("wall-time", f"where {duration(whole)} of wall time went: {said}.", draw)


def _memory(story: Story, record: MemoryRecord) -> Chart:
    on_gpu = any(rank.gpu is not None for rank in record.ranks)
    predicted = story.facts.gpu_bytes if on_gpu else story.facts.host_bytes
    kinds: dict[str, list[int | None]] = {
        "on the GPU, by the allocator": [rank.gpu_reserved for rank in record.ranks],
        "on the GPU, in tensors": [rank.gpu for rank in record.ranks],
        "host": [rank.host for rank in record.ranks],
        "host, before the first step": [rank.held for rank in record.ranks],
    }
    known = {name: [v or 0 for v in values] for name, values in kinds.items() if any(values)}

    def draw(axes: Any) -> None:
        height = 0.8 / len(known)
        for index, (name, values) in enumerate(known.items()):
            places = [rank + (index - (len(known) - 1) / 2) * height for rank in range(len(values))]
            axes.barh(places, [v / 1e9 for v in values], height, color=SERIES[index], label=name)
        if predicted is not None:
            axes.axvline(predicted / 1e9, color=INK, linestyle="--", linewidth=1, label="predicted")
        every = max(1, len(record.ranks) // 16)
        axes.set_yticks(range(0, len(record.ranks), every))
        axes.set_yticklabels([f"rank {rank}" for rank in range(0, len(record.ranks), every)])
        axes.invert_yaxis()
        axes.set(title=f"most memory held, attempt {record.attempt}", xlabel="GB")
        axes.figure.legend(loc="outside lower left", ncols=2)

    said = ", ".join(f"{name} {size(max(values))}" for name, values in known.items())
    says = f"most memory of any of {plural(len(record.ranks), 'rank')}: {said}."
    if predicted is not None:
        says += f" Predicted: {size(predicted)}."
    return Chart("memory", says, draw, height=min(8.0, 2.4 + 0.35 * min(len(record.ranks), 16)))


def _bands(axes: Any, axis: Axis) -> None:
    """Every other attempt is shaded, and its beginning a dotted line with its number."""
    if len(axis.starts) < 2:
        return
    for index, (number, begin, end) in enumerate(axis.starts):
        if index % 2:
            axes.axvspan(begin, end, color=BAND, zorder=0, linewidth=0)
        if index:
            axes.axvline(begin, color=FAINT, linestyle=":", linewidth=1)
        if len(axis.starts) <= NUMBERED:
            place = axes.get_xaxis_transform()
            axes.text(begin, 1.0, f" {number}", transform=place, fontsize=8, color=FAINT, va="top")


def _lines(
    axes: Any, axis: Axis, steps: Sequence[StepRecord], of: Values, *, label: str | None = None, **style: Any
) -> None:
    """One line for each attempt, so that none crosses a pause; together they have some ``POINTS`` points."""
    for index, (_, group) in enumerate(groupby(steps, key=lambda step: step.attempt)):
        own = list(group)
        points = max(LEAST_POINTS, POINTS * len(own) // len(steps))
        name = label if index == 0 else None
        line(axes, map(axis.at, own), map(of, own), points=points, label=name, **style)


def _logarithmic(axes: Any) -> None:
    """Labels are plain numbers, at every power of ten and, where there are few of them, between."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high / low < FEW_POWERS:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def _dots(axes: Any, points: Sequence[tuple[float, float]], color: str, marker: str, label: str) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=color, marker=marker, markersize=5, linestyle="none", label=label)


def _finish(axes: Any) -> None:
    axes.grid(visible=True, alpha=0.7)
    axes.set_axisbelow(True)
    if axes.get_xlabel() == "optimizer step":
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter(thousands)


def _bars_only(axes: Any, title: str) -> None:
    axes.set_title(title)
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _from_to(values: Sequence[float | None], form: str) -> str:
    """First, last and extremes, in words."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return "no finite number"
    first, last, low, high = (form.format(v) for v in (found[0], found[-1], min(found), max(found)))
    return f"from {first} to {last} (lowest {low}, highest {high})"


def _attempts_said(story: Story) -> str:
    resumed = story.history.resumed_at
    if not resumed:
        return ""
    return f" Resumed after step {', '.join(f'{step:,}' for step in resumed)}."
