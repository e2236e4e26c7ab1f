"""Long tables are folded, and cut."""

from __future__ import annotations

from gemfit.report.blocks import Block, Fold, Table

ROWS = 200
"""Rows of a table at most; the rest is counted."""


def cut(table: Table) -> Block:
    """A long table is folded after its first rows."""
    if len(table.rows) <= ROWS:
        return table
    note = f"{len(table.rows) - ROWS:,} more rows are not shown. {table.note}".strip()
    shown = Table(table.title, table.heads, table.rows[:ROWS], note)
    return Fold(f"{table.title}: {len(table.rows):,} rows", (shown,), printed="Folded: see the file.")
