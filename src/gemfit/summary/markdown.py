"""Markdown: sections, tables, lists, and verbatim blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from gemfit.summary.text_table import TextTable

Row = TypeVar("Row")


def spread(rows: Sequence[Row], most: int = 12) -> list[Row]:
    """At most ``most`` of the rows: the first, the last, and others evenly between."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def section(title: str, *parts: str, level: int = 2) -> str:
    """A heading and the parts below it; empty parts are left out."""
    return "\n\n".join(["#" * level + " " + title, *(part for part in parts if part)])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> str:
    """A table; the columns in ``numbers`` are set to the right."""
    rule = ["---:" if name in numbers else "---" for name in head]
    return "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in [head, rule, *rows])


def render(made: TextTable) -> str:
    """The table without its title, and its note below."""
    return "\n\n".join([table(made.heads, made.rows, numbers=made.numeric_heads), *filter(None, [made.note])])


def key_values(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns: name and value."""
    return table(("what", "value"), rows)


def cell(text: str) -> str:
    """``text`` for a cell: on one line, pipes escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def verbatim(text: str, language: str = "text") -> str:
    """A fenced block, with a fence longer than any in ``text``."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def printable(text: str) -> str:
    """``text`` with control and direction characters as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def plain(text: str) -> str:
    """A name as text: control characters as escapes, HTML and Markdown without effect."""
    return re.sub(r"([\\`*\[\]<>&])", r"\\\1", printable(text))


def code(text: str) -> str:
    """``text`` as inline code."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    mark = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{mark}{pad}{text}{pad}{mark}"
