"""Charts of speed, time and memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from gemfit.report.axes import by_step, draw_attempts, draw_points, finish, make_logarithmic, shade_attempts
from gemfit.report.blocks import Chart
from gemfit.report.curves import simple_chart
from gemfit.report.drawing import INK, SERIES
from gemfit.report.figures import mfu_of, time_shares
from gemfit.report.load import RunReport
from gemfit.schemas.goodput import Goodput
from gemfit.schemas.metrics import MemoryRecord
from gemfit.summary.format import duration, plural, size
from gemfit.summary.goodput import goodput_line

WAIT_SHOWN = 1000
"""A wait for data shorter than 1/1000 of a step is not drawn."""


def speed_charts(run: RunReport) -> tuple[Chart, ...]:
    """Charts of speed, time and memory."""
    made = [
        simple_chart(
            run,
            "tokens-per-second",
            "tokens/s, all ranks",
            "tokens/s",
            lambda s: s.tokens_per_second,
            "{:,.0f}",
        )
    ]
    if any(value is not None for value in mfu_of(run)):
        by_number = dict(zip((s.step for s in run.steps), mfu_of(run), strict=True))
        made.append(
            simple_chart(run, "mfu", f"MFU on {run.facts.gpu}", "MFU", lambda s: by_number[s.step], "{:.1%}")
        )
    if any(step.seconds is not None for step in run.steps):
        made += [_step_time(run), _wall_time(run)]
    if run.goodput is not None:
        made.append(_goodput(run.goodput))
    if run.history.memory:
        made.append(_memory(run, run.history.memory[-1]))
    return tuple(made)


def _step_time(run: RunReport) -> Chart:
    axis, steps, history = by_step(run), run.steps, run.history
    stalls = [(axis.at(save), save.stall_seconds) for save in history.saves if save.stall_seconds > 0]
    looks = [(axis.at(e), e.seconds) for e in history.evaluations if e.seconds]
    seconds = [s.seconds for s in steps if s.seconds is not None]
    least = float(np.median(seconds)) / WAIT_SHOWN
    waits = max((s.data_seconds or 0.0 for s in steps), default=0.0)

    def draw(axes: Any) -> None:
        shade_attempts(axes, axis)
        draw_attempts(axes, axis, steps, lambda s: s.seconds, color=SERIES[0], label="whole step")
        if waits > least:  # a zero has no place on a logarithmic axis
            style = {"color": SERIES[2], "label": "waiting for data"}
            draw_attempts(axes, axis, steps, lambda s: s.data_seconds or None, **style)
        draw_points(axes, stalls, SERIES[1], "v", "checkpoint")
        draw_points(axes, looks, SERIES[3], "s", "validation")
        axes.set(title="time per step, validation and checkpoints", xlabel=axis.label, ylabel="seconds")
        make_logarithmic(axes)
        # Waits of microseconds would compress the rest.
        axes.set_ylim(bottom=max(least, axes.get_ylim()[0]))
        finish(axes)
        axes.legend(loc="best", ncols=2)

    alt = f"time per step: median {np.median(seconds):.3g} s, longest {max(seconds):.3g} s."
    if stalls:
        longest = max(stall for _, stall in stalls)
        alt += f" {plural(len(stalls), 'checkpoint')} stalled the training, by {longest:.3g} s at most."
    caption = f"Longest wait for data: {waits:.2g} s." if steps[0].data_seconds is not None else ""
    return Chart("step-time", f"{alt} {caption}".strip(), draw, caption)


def _wall_time(run: RunReport) -> Chart:
    parts = {name: seconds for name, seconds in time_shares(run).items() if seconds > 0}
    whole = sum(parts.values()) or 1.0

    def draw(axes: Any) -> None:
        bars = axes.barh(list(parts), [seconds / whole for seconds in parts.values()], color=SERIES[0])
        labels = [f"{seconds / whole:.1%}  {duration(seconds)}" for seconds in parts.values()]
        axes.bar_label(bars, labels, padding=4)
        _bars_only(axes, "breakdown of the wall time")

    shares = ", ".join(
        f"{name} {seconds / whole:.1%} ({duration(seconds)})" for name, seconds in parts.items()
    )
    caption = "Starting and pauses: loading, compiling, waiting in a queue."
    return Chart("wall-time", f"breakdown of {duration(whole)} of wall time: {shares}.", draw, caption)


def _goodput(goodput: Goodput) -> Chart:
    parts = {part: seconds for part, seconds in goodput.parts.items() if seconds > 0}
    whole, cost = goodput.allocated_seconds, goodput.cost

    def draw(axes: Any) -> None:
        colors = [SERIES[0] if part == "kept steps" else SERIES[1] for part in parts]
        bars = axes.barh(list(parts), [seconds / whole for seconds in parts.values()], color=colors)
        labels = [
            f"{seconds / whole:.1%}  {duration(seconds)}" + (f"  {cost[part]:,.2f}" if cost else "")
            for part, seconds in parts.items()
        ]
        axes.bar_label(bars, labels, padding=4)
        _bars_only(axes, "goodput: allocated time of all ranks")

    between = f"Between the attempts, without an allocation: {duration(goodput.between_seconds)}."
    return Chart("goodput", f"{goodput_line(goodput)}.", draw, between if goodput.between_seconds else "")


def _memory(run: RunReport, record: MemoryRecord) -> Chart:
    on_gpu = any(rank.gpu is not None for rank in record.ranks)
    predicted = run.facts.gpu_bytes if on_gpu else run.facts.host_bytes
    kinds: dict[str, list[int | None]] = {
        "GPU, reserved by the allocator": [rank.gpu_reserved for rank in record.ranks],
        "GPU, in tensors": [rank.gpu for rank in record.ranks],
        "host": [rank.host for rank in record.ranks],
        "host, before the first step": [rank.held for rank in record.ranks],
    }
    measured = {name: [v or 0 for v in values] for name, values in kinds.items() if any(values)}

    def draw(axes: Any) -> None:
        height = 0.8 / len(measured)
        for index, (name, values) in enumerate(measured.items()):
            places = [rank + (index - (len(measured) - 1) / 2) * height for rank in range(len(values))]
            axes.barh(places, [v / 1e9 for v in values], height, color=SERIES[index], label=name)
        if predicted is not None:
            axes.axvline(predicted / 1e9, color=INK, linestyle="--", linewidth=1, label="predicted")
        every = max(1, len(record.ranks) // 16)
        axes.set_yticks(range(0, len(record.ranks), every))
        axes.set_yticklabels([f"rank {rank}" for rank in range(0, len(record.ranks), every)])
        axes.invert_yaxis()
        axes.set(title=f"peak memory, attempt {record.attempt}", xlabel="GB")
        axes.figure.legend(loc="outside lower left", ncols=2)

    peaks = ", ".join(f"{name} {size(max(values))}" for name, values in measured.items())
    alt = f"peak memory of any of {plural(len(record.ranks), 'rank')}: {peaks}."
    if predicted is not None:
        alt += f" Predicted: {size(predicted)}."
    return Chart("memory", alt, draw, height=min(8.0, 2.4 + 0.35 * min(len(record.ranks), 16)))


def _bars_only(axes: Any, title: str) -> None:
    axes.set_title(title)
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
