"""Long tables are folded, and cut."""

from __future__ import annotations

from gemfit.report.blocks import Block, Fold, Table

SHORT = 25
"""Rows that are shown unfolded."""
ROWS = 200
"""Rows of a table at most; the rest is counted."""


def cut(table: Table) -> Block:
    """A long table is folded, and a very long one shows its first rows."""
    if len(table.rows) <= SHORT:
        return table
    left = len(table.rows) - ROWS
    note = f"{left:,} more rows are not shown. {table.note}".strip() if left > 0 else table.note
    shown = Table(table.title, table.heads, table.rows[:ROWS], note)
    return Fold(f"{table.title}: {len(table.rows):,} rows", (shown,), printed="Unfold it before printing.")
