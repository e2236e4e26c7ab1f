"""Print the statistics of a pack as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from gemfit.data.inspect.tables import stdout_console, table
from gemfit.data.inspect.token_flow import LOSSES

REASONS = 8
"""Reasons of rejected lines that are printed."""
SUMS = ("in", "out")
"""Sums in the table of token accounting."""
Figures = dict[str, Any]


class Grid(NamedTuple):
    """Content of a table, without layout."""

    title: str
    heads: list[str]
    rows: Sequence[tuple[str, ...]]


def print_tables(figures: Figures) -> None:
    """Print all tables that are not empty."""
    out = stdout_console()
    out.print(Text(f"{figures['pack']}: rows of {figures['seq_len']:,} tokens"), soft_wrap=True)
    for grid in grids(figures):
        out.print()
        out.print(_layout(grid))


def grids(figures: Figures) -> Iterator[Grid]:
    """All tables that are not empty."""
    yield _splits(figures)
    yield _spread(figures)
    yield _token_accounting(figures)
    yield _dispositions(figures)
    yield _roles(figures)
    if figures["rejected"]:
        rows = [(f"{r['lines']:,}", r["first"], r["reason"]) for r in figures["rejected"][:REASONS]]
        yield Grid("Rejected lines", ["lines", "first", "reason"], rows)
    if found := {kind: count for kind, count in figures["pii"].items() if count}:
        kinds = [(kind, f"{count:,}") for kind, count in found.items()]
        yield Grid("PII", ["kind", "found"], kinds)


def _layout(grid: Grid) -> Table:
    """Lay out a table, with bold sums and a line between tokens in and tokens out."""
    made = table(grid.heads, grid.rows, title=grid.title)
    for index, row in enumerate(grid.rows):
        made.rows[index].style = "bold" if row[0] in SUMS else None
        made.rows[index].end_section = row[0] == "in"
    return made


def _splits(figures: Figures) -> Grid:
    names = ["rows", "conversations", "documents", "tokens", "trained_tokens", "repeated_tokens"]
    rows = [
        (split, *(f"{counts[name]:,}" for name in names), f"{counts['fill']:.3%}")
        for split, counts in figures["splits"].items()
    ]
    heads = ["split", "rows", "conversations", "chunks", "tokens", "trained", "repeated", "fill"]
    return Grid("Rows", heads, rows)


def _spread(figures: Figures) -> Grid:
    heads = ["", "mean", "min", "p10", "p50", "p90", "p99", "max"]
    rows = []
    for what, spread in figures["spread"].items():
        template = "{:.2%}" if what.startswith("fill") else "{:,.0f}"
        numbers = [template.format(spread[name]) for name in heads[2:]]
        mean = template.format(spread["mean"]) if what.startswith("fill") else f"{spread['mean']:,.1f}"
        rows.append((what, mean, *numbers))
    return Grid("Spread", heads, rows)


def _token_accounting(figures: Figures) -> Grid:
    """Token accounting: tokens in and tokens out by source; unequal sums are reported as an error."""
    flow = figures["flow"]
    single = len(flow) == 2  # one source is the total
    names = [name for name in flow if not single or name == "total"]
    rows = [
        *_account("read", "tokens_read", "", flow, names),
        *_account("repeated as context", "repeated", "+ ", flow, names, if_any=True),
        *_account("oversampled by weight", "oversampled", "+ ", flow, names, if_any=True),
        ("in", *(f"{_tokens_in(flow[name]):,}" for name in names)),
        *_account("packed", "packed", "", flow, names),
        *(row for loss in LOSSES for row in _account(loss, loss, "+ ", flow, names, if_any=True)),
        ("out", *(f"{_tokens_out(flow[name]):,}" for name in names)),
    ]
    return Grid("Token accounting", ["tokens", *names], rows)


def _account(
    what: str, kind: str, sign: str, flow: Figures, names: list[str], *, if_any: bool = False
) -> Iterator[tuple[str, ...]]:
    if if_any and not any(flow[name][kind] for name in names):
        return
    yield sign + what.replace("_", " "), *(f"{flow[name][kind]:,}" for name in names)


def _tokens_in(one: dict[str, int]) -> int:
    return one["tokens_read"] + one["repeated"] + one["oversampled"]


def _tokens_out(one: dict[str, int]) -> int:
    return one["packed"] + sum(one[loss] for loss in LOSSES)


def _dispositions(figures: Figures) -> Grid:
    losses = figures["losses"]
    lines = {
        "lines read": losses["lines_read"],
        "blank lines": losses["blank_lines"],
        "rejected lines": losses["rejected_lines"],
        "untrained lines": losses["untrained_lines"],
        "empty messages": losses["empty_messages"],
    }
    rows = [(what, f"{count:,}", "") for what, count in lines.items() if count]
    rows += [
        (name.replace("_", " "), f"{disposition['conversations']:,}", f"{disposition['tokens']:,}")
        for name, disposition in figures["dispositions"].items()
    ]
    for what, counter in (
        ("split", "split_conversations"),
        ("truncated", "truncated_conversations"),
        ("cuts inside a message", "mid_message_cuts"),
    ):
        if losses[counter]:
            rows.append((f"of these: {what}", f"{losses[counter]:,}", ""))
    return Grid("Outcomes", ["lines and conversations", "number", "tokens"], rows)


def _roles(figures: Figures) -> Grid:
    total = sum(figures["roles"].values()) or 1
    rows = [(role, f"{count:,}", f"{count / total:.2%}") for role, count in figures["roles"].items() if count]
    return Grid("Roles", ["role", "tokens", "share"], rows)
