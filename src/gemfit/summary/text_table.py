"""A table of text cells, for HTML, Markdown and the terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gemfit.summary.format import NOTHING

Cells = tuple[str, ...]
WORD = re.compile("[A-Za-z]{3}")
"""Units have fewer letters."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows under a head; the first column names its row."""

    title: str
    heads: Cells
    rows: tuple[Cells, ...]
    note: str = ""

    @property
    def is_numeric(self) -> tuple[bool, ...]:
        """Whether each column holds nothing but numbers."""
        return tuple(
            index > 0
            and any(map(_is_number, column))
            and all(cell in ("", NOTHING) or _is_number(cell) for cell in column)
            for index, column in enumerate(zip(*self.rows, strict=True))
        )

    @property
    def numeric_heads(self) -> list[str]:
        """Heads of the columns that are set to the right."""
        return [head for head, numeric in zip(self.heads, self.is_numeric, strict=False) if numeric]


def _is_number(text: str) -> bool:
    return text[:1] in set("+-−0123456789") and text[-1] not in "-−" and WORD.search(text) is None
