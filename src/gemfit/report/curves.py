"""Training charts: loss, learning rate, gradient norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gemfit.report.axes import (
    NUMBERED,
    Axis,
    Values,
    by_step,
    by_time,
    draw_attempts,
    finish,
    from_to,
    make_logarithmic,
    shade_attempts,
)
from gemfit.report.blocks import Chart
from gemfit.report.drawing import FAINT, SERIES, line, smoothed
from gemfit.report.load import RunReport
from gemfit.schemas.metrics import StepRecord
from gemfit.summary.format import plural

SMOOTHED_FROM = 100
"""Steps from which the loss is smoothed."""
MARKED = 40
"""Most validations that are marked one by one."""
SPREAD = 30.0
"""Ratio of the extremes from which an axis is logarithmic."""


def training_charts(run: RunReport) -> tuple[Chart, ...]:
    """Every training chart that there are records for."""
    steps, time = by_step(run), by_time(run)
    made = [
        _losses(run, steps, "loss", "loss by step"),
        _losses(run, time, "loss-by-time", "loss by wall time"),
        simple_chart(
            run, "learning-rate", "learning rate", "learning rate", lambda s: s.learning_rate, "{:.3g}"
        ),
    ]
    if any(step.grad_norm is not None for step in run.steps):
        made.append(_gradients(run))
    return tuple(made)


def simple_chart(run: RunReport, name: str, title: str, ylabel: str, of: Values, form: str) -> Chart:
    """One value of each step, on an axis from zero; ``form`` formats a value."""
    axis = by_step(run)

    def draw(axes: Any) -> None:
        shade_attempts(axes, axis)
        draw_attempts(axes, axis, run.steps, of, color=SERIES[0])
        axes.set(title=title, xlabel=axis.label, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        if form == "{:.3g}":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        else:
            axes.yaxis.set_major_formatter(lambda value, _: form.format(value))
        finish(axes)

    return Chart(name, f"{title}: {from_to(list(map(of, run.steps)), form)}.", draw)


def _losses(run: RunReport, axis: Axis, name: str, title: str) -> Chart:
    steps, evaluations = run.steps, run.history.evaluations

    def draw(axes: Any) -> None:
        shade_attempts(axes, axis)
        _draw_training(axes, axis, steps)
        for index, attempt in enumerate(a for a in run.attempts if a.repeated):
            gone = attempt.repeated
            style = {"color": FAINT, "linestyle": ":", "linewidth": 1}
            draw_attempts(axes, axis, gone, _loss, label=None if index else "repeated", **style)
        if evaluations:
            x, y = [axis.at(e) for e in evaluations], [e.loss for e in evaluations]
            marker = "s" if len(x) <= MARKED else ""
            line(axes, x, y, color=SERIES[1], marker=marker, markersize=4, label="validation")
        axes.set(title=title, xlabel=axis.label, ylabel="nats per token")
        finish(axes)
        axes.legend(loc="upper right")

    alt = f"Training loss {from_to([s.loss for s in steps], '{:.4f}')} over {plural(len(steps), 'step')}."
    if evaluations:
        alt += f" Validation loss {from_to([e.loss for e in evaluations], '{:.4f}')}."
    return Chart(name, f"{title}: {alt}{_resumed(run)}", draw, _endings(run))


def _draw_training(axes: Any, axis: Axis, steps: Sequence[StepRecord]) -> None:
    """The loss of each step; of a long run also its mean over 2 % of the steps."""
    if len(steps) < SMOOTHED_FROM:
        draw_attempts(axes, axis, steps, _loss, color=SERIES[0], label="training")
        return
    window = len(steps) // 50
    faint = {"color": SERIES[0], "alpha": 0.35, "linewidth": 0.8}
    draw_attempts(axes, axis, steps, _loss, label="training, per step", **faint)
    means = smoothed(np.array([step.loss for step in steps]), window).tolist()
    mean = dict(zip((step.step for step in steps), means, strict=True))
    label = f"mean of {window}"
    draw_attempts(axes, axis, steps, lambda step: mean[step.step], color=SERIES[0], label=label)


def _loss(step: StepRecord) -> float:
    return step.loss


def _gradients(run: RunReport) -> Chart:
    axis, bound = by_step(run), run.plan.recipe.optim.max_grad_norm
    norms = [s.grad_norm for s in run.steps if s.grad_norm is not None]
    above = sum(norm > bound for norm in norms)

    def draw(axes: Any) -> None:
        shade_attempts(axes, axis)
        draw_attempts(axes, axis, run.steps, lambda s: s.grad_norm, color=SERIES[0])
        axes.axhline(bound, color=SERIES[1], linestyle="--", linewidth=1, label=f"clipped above {bound:g}")
        axes.set(title="gradient norm before clipping", xlabel=axis.label, ylabel="L2 norm")
        if norms and min(norms) > 0 and max([*norms, bound]) / min([*norms, bound]) > SPREAD:
            make_logarithmic(axes)
        else:
            axes.set_ylim(bottom=0)
        finish(axes)
        axes.legend(loc="upper right")

    clipped = f"{plural(above, 'step')} of {len(run.steps):,} clipped"
    alt = f"gradient norm: {from_to(norms, '{:.3g}')}; {clipped}."
    return Chart("gradient-norm", alt, draw)


def _endings(run: RunReport) -> str:
    """How each attempt but the last ended, if there are few."""
    earlier = run.attempts[:-1]
    if len(earlier) >= NUMBERED:
        return f"{plural(len(earlier) + 1, 'attempt')}: see the table of attempts."
    ended = [
        f"Attempt {one.number} {one.outcome}"
        + (f" at step {one.last_step:,}" if one.steps else " before its first step")
        for one in earlier
    ]
    return "; ".join(ended) + "." * bool(ended)


def _resumed(run: RunReport) -> str:
    resumed = run.history.resumed_at
    if not resumed:
        return ""
    return f" Resumed after step {', '.join(f'{step:,}' for step in resumed)}."
