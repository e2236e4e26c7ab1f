"""Charts as inline SVG and as PNG, with matplotlib.

Figures have the colours of a light page; ``COLOR_RULES`` maps each to a CSS variable of the page, which
dark mode redefines. About 0.2 seconds per chart.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from cycler import cycler
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

from gemfit.control_characters import escape_control_characters
from gemfit.report.blocks import Chart

mpl.use("Agg")
from matplotlib import pyplot as plt

WIDTH = 5.6
"""Inches: about the width of a phone, so that text is not scaled down there."""
POINTS = 600
"""Most points of a line, local extremes included."""

# Okabe and Ito: distinguishable with every kind of colour vision.
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
COLOR_RULES = "".join(
    f"figure svg [style*='{attribute}: {color}'] {{ {attribute}: {variable} !important; }}\n"
    for color, variable in VARIABLES.items()
    for attribute in ("fill", "stroke")
)
"""Style sheet of a page with charts; ``!important`` overrides the inline styles of matplotlib."""
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
NOT_INLINE = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)
SETTINGS: dict[str, Any] = {
    "text.parse_math": False,  # a dollar sign in a name does not start a formula
    "svg.fonttype": "none",
    "svg.hashsalt": "gemfit",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,  # numbers of attempts are below it
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
DRAWN = 1e30
"""Values from here on, and infinite ones, are left out: the ticks of an axis overflow."""


def draw(chart: Chart, png: Path) -> str:
    """The chart as an SVG element for a page; also written to ``png``."""
    with _without_glyph_warnings(), mpl.rc_context(SETTINGS):
        figure, axes = plt.subplots(figsize=(WIDTH, chart.height), layout="constrained")
        try:
            chart.draw(axes)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True)
            figure.savefig(png, dpi=150, facecolor="white")
        finally:
            plt.close(figure)
    return inline_svg(buffer.getvalue(), chart.name)


def inline_svg(document: str, name: str) -> str:
    """matplotlib's SVG document as an element of a page: without style sheet, ids prefixed by ``name``."""
    # Names of runs and roles may hold control characters, which XML forbids.
    root = ElementTree.fromstring(escape_control_characters(document))
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in NOT_INLINE]:
            parent.remove(child)
        for key, value in parent.attrib.items():
            if key == "id":
                parent.set(key, f"{name}-{value}")
            else:
                parent.set(
                    key, value.replace("url(#", f"url(#{name}-") if key != HREF else f"#{name}-{value[1:]}"
                )
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode")


def _unique(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    return f"#{name}-{value[1:]}" if key == HREF else value.replace("url(#", f"url(#{name}-")


def line(
    axes: Any, x: Iterable[float], y: Iterable[float | None], *, points: int = POINTS, **style: Any
) -> None:
    """A line through the points that can be drawn, thinned to ``points``."""
    axes.plot(*thinned(np.array(list(x), np.float64), np.array(list(y), np.float64), points), **style)


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], points: int = POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``points`` of those that can be drawn; x, y: (n,).

    Keeps the minimum and maximum of every bin, so that no spike is lost.
    """
    drawn = (np.abs(x) < DRAWN) & (np.abs(y) < DRAWN)  # false for NaN
    x, y = np.ascontiguousarray(x[drawn]), np.ascontiguousarray(y[drawn])
    if len(x) <= points:
        return x, y
    extremes = MinMaxDownsampler().downsample(y, n_out=2 * (points // 2 - 1))
    chosen = np.union1d(extremes.astype(np.int64), [0, len(y) - 1])
    return x[chosen], y[chosen]


def smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Trailing moving average over ``window`` values, over fewer at the beginning.

    Values that cannot be drawn are left out; the average of none is NaN.
    """
    drawn = np.abs(values) < DRAWN
    sums = np.concatenate([[0.0], np.cumsum(np.where(drawn, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(drawn)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    number = counts[ends] - counts[begins]
    return np.where(number > 0, (sums[ends] - sums[begins]) / np.maximum(number, 1), np.nan)


def thousands(value: float, _: int = 0) -> str:
    """Label of a tick with thousands separators."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """Glyphs that the font lacks are boxes in the PNG; the browser has other fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
