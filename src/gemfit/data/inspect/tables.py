"""Tables for a person; plain text where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 100


def page() -> Console:
    """Standard output, as wide as the terminal but never narrower than a page where there is none."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """A table with a head; columns that hold only numbers are set to the right."""
    lines = [tuple(row) for row in rows]
    made = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title=title,
        title_justify="left",
        title_style="bold",
    )
    for index, column in enumerate(columns):
        number = bool(lines) and all(_is_number(line[index]) for line in lines)
        made.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for line in lines:
        made.add_row(*line)
    return made


def _is_number(text: str) -> bool:
    return text.strip("-+ %").replace(",", "").replace(".", "").isdigit() or text in ("", "-")
