"""Print an audit on the terminal: scores side by side, then the findings of each model."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemfit.schemas.audit import Audit
from gemfit.summary.audit import overview_table, summarize_audit
from gemfit.summary.format import plural

MOST_PROMPTS = 6
"""Prompts that a finding lists here; the report has all of them."""
STYLES = {"fail": "bold red", "warn": "yellow"}


def print_audit(audit: Audit, console: Console) -> None:
    """Print scores and findings; of differences between groups only the largest of each kind."""
    summary = summarize_audit(audit)
    scores = overview_table(summary)
    table = Table(*scores.heads, box=None, pad_edge=False)
    for row in scores.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for model in summary.models:
        findings = [one for one in summary.findings if one.model == model]
        count = plural(len(findings), "finding") if findings else "no findings"
        console.print(Text(f"\n{model}: {count}", style="bold"))
        for one in findings:
            severity = one.finding.severity
            console.print(Text.assemble((f"{severity}  ", STYLES[severity]), one.text(MOST_PROMPTS)))
