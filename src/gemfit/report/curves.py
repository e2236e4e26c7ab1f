"""Charts of the training: losses, schedule, gradients."""

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
from gemfit.report.drawing import FAINT, SERIES, smoothed
from gemfit.report.format import plural
from gemfit.report.load import Story
from gemfit.schemas.metrics import StepRecord

SMOOTHED_FROM = 100
"""Steps from which on single losses are noise."""
MARKED = 40
"""Evaluations up to which each is marked."""
SPREAD = 30.0
"""Largest over smallest value from which on an axis is logarithmic."""


def training_charts(story: Story) -> tuple[Chart, ...]:
    """Every chart of the training that the records have something for."""
    steps, time = by_step(story), by_time(story)
    made = [
        _losses(story, steps, "loss", "loss by step"),
        _losses(story, time, "loss-by-time", "loss by wall time"),
        simple_chart(
            story, "learning-rate", "learning rate", "learning rate", lambda s: s.learning_rate, "{:.3g}"
        ),
    ]
    if any(step.grad_norm is not None for step in story.steps):
        made.append(_gradients(story))
    return tuple(made)


def simple_chart(story: Story, name: str, title: str, ylabel: str, of: Values, form: str) -> Chart:
    """One value of each step, from zero on; ``form`` writes a value."""
    axis = by_step(story)

    def draw(axes: Any) -> None:
        shade_attempts(axes, axis)
        draw_attempts(axes, axis, story.steps, of, color=SERIES[0])
        axes.set(title=title, xlabel=axis.label, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        if form == "{:.3g}":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        else:
            axes.yaxis.set_major_formatter(lambda value, _: form.format(value))
        finish(axes)

    return Chart(name, f"{title}: {from_to(list(map(of, story.steps)), form)}.", draw)


def _losses(story: Story, axis: Axis, name: str, title: str) -> Chart:
    steps, evaluations = story.steps, story.history.evaluations

    def draw(axes: Any) -> None:
        shade_attempts(axes, axis)
        _draw_training(axes, axis, steps)
        for index, attempt in enumerate(a for a in story.attempts if a.redone):
            gone = attempt.redone
            style = {"color": FAINT, "linestyle": ":", "linewidth": 1}
            draw_attempts(axes, axis, gone, _loss, label=None if index else "done again", **style)
        if evaluations:
            x, y = [axis.at(e) for e in evaluations], [e.loss for e in evaluations]
            marker = "s" if len(x) <= MARKED else ""
            axes.plot(x, y, color=SERIES[1], marker=marker, markersize=4, label="held-out")
        axes.set(title=title, xlabel=axis.label, ylabel="nats per token")
        finish(axes)
        axes.legend(loc="upper right")

    says = f"Training loss {from_to([s.loss for s in steps], '{:.4f}')} over {plural(len(steps), 'step')}."
    if evaluations:
        says += f" Held-out loss {from_to([e.loss for e in evaluations], '{:.4f}')}."
    return Chart(name, f"{title}: {says}{_attempts_said(story)}", draw, _endings(story))


def _draw_training(axes: Any, axis: Axis, steps: Sequence[StepRecord]) -> None:
    """Each loss; of a long run the mean of 2 % of it as well."""
    if len(steps) < SMOOTHED_FROM:
        draw_attempts(axes, axis, steps, _loss, color=SERIES[0], label="training")
        return
    window = len(steps) // 50
    faint = {"color": SERIES[0], "alpha": 0.35, "linewidth": 0.8}
    draw_attempts(axes, axis, steps, _loss, label="training, each step", **faint)
    means = smoothed(np.array([step.loss for step in steps]), window).tolist()
    mean = dict(zip((step.step for step in steps), means, strict=True))
    label = f"mean of {window}"
    draw_attempts(axes, axis, steps, lambda step: mean[step.step], color=SERIES[0], label=label)


def _loss(step: StepRecord) -> float:
    return step.loss


def _gradients(story: Story) -> Chart:
    axis, bound = by_step(story), story.plan.recipe.optim.max_grad_norm
    norms = [s.grad_norm for s in story.steps if s.grad_norm is not None]
    above = sum(norm > bound for norm in norms)

    def draw(axes: Any) -> None:
        shade_attempts(axes, axis)
        draw_attempts(axes, axis, story.steps, lambda s: s.grad_norm, color=SERIES[0])
        axes.axhline(bound, color=SERIES[1], linestyle="--", linewidth=1, label=f"clipped above {bound:g}")
        axes.set(title="gradient norm before clipping", xlabel=axis.label, ylabel="L2 norm")
        if norms and min(norms) > 0 and max([*norms, bound]) / min([*norms, bound]) > SPREAD:
            make_logarithmic(axes)
        else:
            axes.set_ylim(bottom=0)
        finish(axes)
        axes.legend(loc="upper right")

    clipped = f"{plural(above, 'step')} of {len(story.steps):,} clipped"
    says = f"gradient norm: {from_to(norms, '{:.3g}')}; {clipped}."
    return Chart("gradient-norm", says, draw)


def _endings(story: Story) -> str:
    """How each attempt but the last ended, where there is room to say it."""
    earlier = story.attempts[:-1]
    if len(earlier) >= NUMBERED:
        return f"{plural(len(earlier) + 1, 'attempt')}: how each ended stands in their table."
    told = [
        f"Attempt {one.number} {one.how}" + (f" at step {one.last_step:,}" if one.steps else " before a step")
        for one in earlier
    ]
    return "; ".join(told) + "." * bool(told)


def _attempts_said(story: Story) -> str:
    resumed = story.history.resumed_at
    if not resumed:
        return ""
    return f" Resumed after step {', '.join(f'{step:,}' for step in resumed)}."
