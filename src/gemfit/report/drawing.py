"""From a chart to SVG inside a page and to a PNG: one figure, drawn once.

Colours of the figure are those of a light page. In the page each stands for a CSS variable, so that the
same drawing is right on a dark page. Some 0.2 seconds a chart, nearly all of it matplotlib's.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

from gemfit.data.inspect.printable import name_unseen
from gemfit.errors import UserError
from gemfit.report.blocks import Chart

mpl.use("Agg")
from matplotlib import pyplot as plt

WIDTH = 5.6
"""Inches: on a phone a chart is about as wide, so its letters are as large as they were drawn."""
POINTS = 600
"""Most points of a line that is drawn; the smallest and largest of a stretch are among them."""

# Okabe and Ito: apart for all kinds of colour vision.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#a6458c", "#8a6d00", "#56b4e9")
INK, FAINT, GRID, BAND = "#1c2128", "#5b6673", "#d4d9df", "#eef1f5"
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
VARIABLES = {color: f"var(--s{index})" for index, color in enumerate(SERIES, start=1)} | {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--line)",
    BAND: "var(--band)",
}
SETTINGS: dict[str, Any] = {
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "svg.fonttype": "none",
    "svg.hashsalt": "gemfit",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,  # numbers of attempts stand below it
    "axes.prop_cycle": cycler(color=SERIES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


def draw(chart: Chart, png: Path) -> str:
    """The chart as an SVG element for a page; it also becomes a file."""
    with _quiet(), mpl.rc_context(SETTINGS):
        figure, axes = plt.subplots(figsize=(WIDTH, chart.height), layout="constrained")
        try:
            chart.draw(axes)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True)
            figure.savefig(png, dpi=150, facecolor="white")
        except OSError as error:
            raise UserError(f"{png}: cannot be written: {error.strerror}; choose another --out") from None
        finally:
            plt.close(figure)
    return inlined(buffer.getvalue(), chart.name)


def inlined(svg: str, name: str) -> str:
    """matplotlib's SVG document as an element among others: names of its own, colours of the page."""
    svg = svg[svg.index("<svg") :]
    # Its style sheet would hold for the whole page; the page has the same rules for its charts.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _in_colours_of_the_page(tag[0]), svg)
    return name_unseen(svg)  # names of runs, roles and the like may hold anything


def _in_colours_of_the_page(tag: str) -> str:
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: VARIABLES.get(found[0], found[0]), tag)


def line(
    axes: Any, x: Iterable[float], y: Iterable[float | None], *, points: int = POINTS, **style: Any
) -> None:
    """A line through the points that are finite, thinned to ``points``."""
    axes.plot(*thinned(np.array(list(x), np.float64), np.array(list(y), np.float64), points), **style)


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], points: int = POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``points`` of the finite ones; x, y: (any number,).

    The smallest and largest value of equally long stretches, so that no spike is lost.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = np.ascontiguousarray(x[finite]), np.ascontiguousarray(y[finite])
    if len(x) <= points:
        return x, y
    extremes = MinMaxDownsampler().downsample(y, n_out=2 * (points // 2 - 1))
    chosen = np.union1d(extremes.astype(np.int64), [0, len(y) - 1])
    return x[chosen], y[chosen]


def smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of ``window`` values up to each; at the beginning of as many as there are."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    return np.asarray((sums[ends] - sums[begins]) / (ends - begins))


def thousands(value: float, _: int = 0) -> str:
    """A tick that is a number of something."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Names in scripts that the font does not have are boxes in the PNG; the page has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
