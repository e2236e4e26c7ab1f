"""What a terminal shows of an audit: the figures side by side, then the findings."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemfit.audit.markdown import shown_interval
from gemfit.schemas.audit import Audit, AuditedSubject, AuditScore

MOST_PROMPTS = 6
"""Numbers of prompts that a finding names here; the report has them all."""
STYLES = {"fail": "bold red", "warn": "yellow"}


def show(audit: Audit, console: Console) -> None:
    """Print tables and findings; of differences between groups only the largest of each kind."""
    console.print(_table(audit))
    for subject in audit.subjects:
        console.print(Text(_title(subject), style="bold"))
        for line in _lines(subject):
            console.print(line)


def _table(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("suite", "figure", "better"):
        table.add_column(name)
    for subject in audit.subjects:
        table.add_column(subject.name)
    columns = [dict(_rows(subject)) for subject in audit.subjects]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    last = ""
    for probe, name, better in keys:
        cells = (column.get((probe, name, better), "") for column in columns)
        table.add_row(*map(Text, ("" if probe == last else probe, name, better, *cells)))
        last = probe
    return table


def _rows(subject: AuditedSubject) -> Iterator[tuple[tuple[str, str, str], str]]:
    largest: dict[tuple[str, str], AuditScore] = {}
    for score in subject.scores:
        if score.better != "zero":
            yield (score.probe, score.name, score.better), shown_interval(score)
            continue
        kind = score.probe, score.name.partition(",")[0]
        if kind not in largest or abs(score.value.value) > abs(largest[kind].value.value):
            largest[kind] = score
    for (probe, name), score in largest.items():
        group = score.name.partition(", ")[2]
        yield (probe, f"{name}, largest difference", "zero"), f"{shown_interval(score)}: {group}"


def _title(subject: AuditedSubject) -> str:
    number = len(subject.findings)
    return f"\n{subject.name}: {number or 'no'} finding{'s' * (number != 1)}"


def _lines(subject: AuditedSubject) -> Iterator[Text]:
    for finding in subject.findings:
        shown = ", ".join(finding.prompts[:MOST_PROMPTS])
        more = len(finding.prompts) - MOST_PROMPTS
        where = f" [{shown}{f' and {more} more' if more > 0 else ''}]" if shown else ""
        yield Text.assemble(
            (f"{finding.severity}  ", STYLES[finding.severity]), f"{finding.probe}: {finding.text}", where
        )
