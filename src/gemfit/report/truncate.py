"""Long tables are folded and truncated."""

from __future__ import annotations

from dataclasses import replace

from gemfit.report.blocks import Block, Fold
from gemfit.summary.text_table import TextTable

SHORT = 25
"""Rows that are shown unfolded."""
ROWS = 200
"""Most rows of a table."""


def fold_long(table: TextTable) -> Block:
    """A long table is folded; a very long one shows its first rows and counts the others."""
    if len(table.rows) <= SHORT:
        return table
    left = len(table.rows) - ROWS
    note = f"{left:,} more rows are not shown. {table.note}".strip() if left > 0 else table.note
    shown = replace(table, rows=table.rows[:ROWS], note=note)
    return Fold(f"{table.title}: {len(table.rows):,} rows", (shown,), printed="Unfold it before printing.")
