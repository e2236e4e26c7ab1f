"""Interval plots: a point and an error bar per model and group; and line charts of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemfit.report.blocks import Chart
from gemfit.report.drawing import DASHES, FAINT, MARKERS, SERIES, thousands
from gemfit.schemas.evaluation import Interval
from gemfit.summary.format import interval

LEGEND = 0.3
"""Inches."""
NAME, TITLE = 28, 60
"""Most characters."""


def interval_chart(
    name: str,
    title: str,
    groups: Mapping[str, Mapping[str, Interval]],
    *,
    form: str,
    label: str = "",
    share: bool = False,
    zero: bool = False,
) -> Chart:
    """``groups`` from top to bottom, in each one point per model; ``form`` is the format of a number.

    ``share``: the axis goes from 0 to 1, in percent. ``zero``: a line at 0.
    """
    models = list(dict.fromkeys(model for group in groups.values() for model in group))

    def draw(axes: Any) -> None:
        lane = 0.7 / max(1, len(models))
        for index, model in enumerate(models):
            shown = [(at, group[model]) for at, group in enumerate(groups.values()) if model in group]
            places = [at + (index - (len(models) - 1) / 2) * lane for at, _ in shown]
            _points(axes, [found for _, found in shown], places, index, model)
        axes.set_yticks(range(len(groups)), [_short(group) for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        # Names of groups are long: the title begins at the edge of the picture.
        axes.figure.suptitle(_short(title, TITLE), x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes.set(xlabel=label)
        if share:
            axes.set_xlim(-0.02, 1.02)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        if zero:
            axes.axvline(0, color=FAINT, linewidth=1)
        axes.grid(visible=True, axis="x", alpha=0.7)
        if len(models) > 1:
            axes.figure.legend(loc="outside lower left", ncols=3)

    values = "; ".join(
        f"{group}: " + ", ".join(f"{model} {interval(found, form)}" for model, found in figures.items())
        for group, figures in groups.items()
    )
    return Chart(name, f"{title}: {values}.", draw, height=_height(len(groups), len(models)))


def lines_chart(
    name: str, title: str, curves: Mapping[str, Sequence[tuple[float, float]]], *, xlabel: str, ylabel: str
) -> Chart:
    """One line per run or model, given as (x, y) points."""

    def draw(axes: Any) -> None:
        for index, (who, points) in enumerate(curves.items()):
            # Beyond six, colours repeat with other dashes.
            dash = DASHES[(index + index // len(SERIES)) % len(DASHES)]
            style = {"color": SERIES[index % len(SERIES)], "linestyle": dash}
            marker = {"marker": MARKERS[index % len(MARKERS)], "markersize": 4} if len(points) < 30 else {}
            axes.plot(*zip(*points, strict=True), label=_short(who), **style, **marker)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.xaxis.set_major_formatter(thousands)
        axes.tick_params(axis="x", labelrotation=0)
        axes.xaxis.get_major_locator().set_params(nbins=6)
        axes.grid(visible=True, alpha=0.7)
        axes.legend(loc="upper right")

    values = "; ".join(
        f"{who} from {points[0][1]:.4f} to {points[-1][1]:.4f}" for who, points in curves.items()
    )
    return Chart(name, f"{title}: {values}.", draw)


def _points(axes: Any, found: list[Interval], places: list[float], index: int, model: str) -> None:
    # A rounded value may lie just outside its interval; matplotlib rejects bars of negative length.
    spans = [
        [max(0.0, one.value - one.low) for one in found],
        [max(0.0, one.high - one.value) for one in found],
    ]
    axes.errorbar(
        [one.value for one in found],
        places,
        xerr=spans,
        fmt=MARKERS[index % len(MARKERS)],
        color=SERIES[index % len(SERIES)],
        markersize=4.5,
        capsize=2,
        linewidth=1.2,
        label=_short(model),
    )


def _height(groups: int, models: int) -> float:
    return min(10.0, 1.2 + groups * (0.16 + 0.13 * models) + LEGEND * (models > 1))


def _short(name: str, longest: int = NAME) -> str:
    return name if len(name) <= longest else "…" + name[1 - longest :]
