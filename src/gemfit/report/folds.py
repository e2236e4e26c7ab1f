"""Folded blocks: long tables, settings; and limits on messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue

from gemfit.report.blocks import Block, ChatTurn, Fold
from gemfit.schemas.training_identity import flatten
from gemfit.summary.text_table import TextTable

SHORT = 25
"""Rows that are shown unfolded."""
ROWS = 200
"""Most rows of a table."""
LONGEST = 4_000
"""Characters of one message."""
TOGETHER = 3_000_000
"""Characters of all messages of a section."""


def fold_long(table: TextTable) -> Block:
    """A long table is folded; a very long one shows its first rows and counts the others."""
    if len(table.rows) <= SHORT:
        return table
    left = len(table.rows) - ROWS
    note = f"{left:,} more rows are not shown. {table.note}".strip() if left > 0 else table.note
    shown = replace(table, rows=table.rows[:ROWS], note=note)
    return Fold(f"{table.title}: {len(table.rows):,} rows", (shown,), printed="Unfold it before printing.")


def settings_fold(
    what: str, settings: Mapping[str, JsonValue], versions: Mapping[str, str]
) -> tuple[Fold, ...]:
    """Both as folded tables; nothing where neither is recorded."""
    flat = flatten(dict(settings))
    rows = tuple((key, value if isinstance(value, str) else json.dumps(value)) for key, value in flat.items())
    tables = (
        TextTable(f"Settings of the {what}", ("setting", "value"), rows),
        TextTable(f"Versions of the {what}", ("package", "version"), tuple(versions.items())),
    )
    recorded = tuple(table for table in tables if table.rows)
    return (Fold(f"Settings and versions of the {what}", recorded),) if recorded else ()


@dataclass(slots=True)
class TextBudget:
    """Truncates long messages, and all of them once the section is full; ``file`` has the whole texts."""

    file: str
    left: int = TOGETHER

    def turn(self, speaker: str, text: str, note: str = "") -> ChatTurn:
        """The message as the page shows it; its note counts the characters that are left out."""
        shown = text[: min(LONGEST, max(0, self.left))]
        self.left -= len(shown)
        if len(shown) == len(text):
            return ChatTurn(speaker, text, note)
        truncated = f"truncated: {len(text) - len(shown):,} more characters are in {self.file}"
        return ChatTurn(speaker, shown, f"{note} · {truncated}" if note else truncated)

    @property
    def print_note(self) -> str:
        """Shown on paper, where nothing unfolds."""
        return f"Folded in print; see {self.file}, or unfold before printing."

    @property
    def limits(self) -> str:
        return f"Messages are shown up to {LONGEST:,} characters, all of a section up to {TOGETHER:,}."
