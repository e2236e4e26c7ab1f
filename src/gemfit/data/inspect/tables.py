"""Tables for the terminal or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gemfit.core.plain_console import PlainConsole

WIDTH = 100


def stdout_console() -> PlainConsole:
    """Console on standard output, as wide as the terminal or ``WIDTH`` without one."""
    console = PlainConsole(file=sys.stdout)
    if console.is_terminal:
        return console
    return PlainConsole(file=sys.stdout, width=WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """A table with a header; columns of numbers are aligned to the right."""
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
