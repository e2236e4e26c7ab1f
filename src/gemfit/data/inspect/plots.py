"""Plot the statistics of a pack: lengths, fill, tokens by role, token accounting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from gemfit.data.inspect.token_flow import LOSSES
from gemfit.errors import UserError

if TYPE_CHECKING:
    from gemfit.data.inspect.stat_columns import StatColumns

mpl.use("Agg")
from matplotlib import pyplot as plt

BINS = 60
MIN_LABELLED_SHARE = 0.06
"""Wider parts of a bar are labelled."""
Figures = dict[str, Any]


def draw(figures: Figures, columns: StatColumns, out: Path) -> None:
    """Write the figure; a file that cannot be written is a ``UserError``."""
    figure, axes = plt.subplot_mosaic(
        [["lengths", "fill"], ["sources", "roles"], ["flow", "flow"]],
        figsize=(11, 9),
        height_ratios=[3, 2, 2],
        layout="constrained",
    )
    figure.suptitle(f"{Path(figures['pack']).name}: {_summary(figures)}")
    draw_lengths(axes["lengths"], columns.lengths, figures["seq_len"])
    draw_fill(axes["fill"], columns.fill)
    draw_parts(axes["sources"], "packed tokens by source", packed_by_source(figures))
    draw_parts(axes["roles"], "tokens by role (of packed conversations, once)", figures["roles"])
    draw_flow(axes["flow"], figures["flow"]["total"])
    try:
        figure.savefig(out, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: cannot be written: {error}; choose another --plot") from None
    finally:
        plt.close(figure)


def _summary(figures: Figures) -> str:
    rows = sum(split["rows"] for split in figures["splits"].values())
    conversations = sum(split["conversations"] for split in figures["splits"].values())
    return f"{conversations:,} conversations in {rows:,} rows of {figures['seq_len']:,} tokens"


def draw_lengths(axes: Any, lengths: NDArray[np.int32], seq_len: int) -> None:
    """Histogram of conversation lengths; lengths: (conversations,)."""
    low, high = (max(1, lengths.min()), lengths.max() + 1) if len(lengths) else (1, 2)
    axes.hist(lengths, bins=np.geomspace(low, high, BINS), color="C0")
    axes.axvline(
        seq_len, color=mpl.rcParams["text.color"], linestyle=":", linewidth=1, label=f"a row: {seq_len:,}"
    )
    axes.set(title="length of a conversation", xlabel="tokens", ylabel="conversations", xscale="log")
    axes.xaxis.set_major_formatter(_whole)
    axes.xaxis.set_minor_formatter(_whole if high / low < 10 else NullFormatter())
    axes.legend()


def draw_fill(axes: Any, fill: dict[str, NDArray[np.float64]]) -> None:
    """Rows sorted by fill, the emptiest on the left: most are full, so a histogram would show one bar."""
    for split, shares in fill.items():
        if len(shares):
            axes.plot(np.linspace(0, 100, len(shares)), 100 * np.sort(shares), label=split)
    axes.set(title="fill of rows", xlabel="rows, the emptiest first (%)", ylabel="places filled (%)")
    axes.grid(alpha=0.3)
    axes.legend()


def packed_by_source(figures: Figures) -> dict[str, int]:
    """Packed tokens by name of the source."""
    return {name: one["packed"] for name, one in figures["flow"].items() if name != "total"}


def draw_parts(axes: Any, title: str, parts: dict[str, int]) -> None:
    """One bar per part, with its number."""
    parts_drawn = {name: count for name, count in parts.items() if count}
    bars = axes.barh([_short(name) for name in parts_drawn], list(parts_drawn.values()), color="C0")
    axes.bar_label(bars, [f"{count:,}" for count in parts_drawn.values()], padding=4)
    axes.set_title(title)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def draw_flow(axes: Any, total: dict[str, int]) -> None:
    """Token accounting: two bars of equal length, tokens in and tokens out."""
    into = {"read": total["tokens_read"], "repeated": total["repeated"], "oversampled": total["oversampled"]}
    out_of = {"packed": total["packed"], **{loss: total[loss] for loss in LOSSES}}
    whole = max(1, sum(into.values()))
    colors = iter(mpl.colormaps["tab20"](np.linspace(0, 1, 20)))
    for name, parts in (("in", into), ("out", out_of)):
        left = 0
        for part, count in parts.items():
            if count:
                axes.barh(
                    name, count, left=left, color=next(colors), label=f"{part} {count:,}".replace("_", " ")
                )
                if count / whole > MIN_LABELLED_SHARE:
                    axes.text(left + count / 2, name, part.replace("_", " "), ha="center", va="center")
                left += count
    axes.set(title="token accounting", xlabel="tokens", xlim=(0, None))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(_whole)
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.3), frameon=False)


def _whole(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _short(name: str) -> str:
    return name if len(name) <= 24 else "…" + name[-23:]
