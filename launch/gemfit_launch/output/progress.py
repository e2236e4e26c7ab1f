"""Progress of a running attempt: a bar on a terminal, plain lines in a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gemfit.core.plain_console import PlainConsole
from gemfit.schemas.metrics import EvalRecord, Record, StepRecord
from gemfit.summary.format import duration
from gemfit_launch.runs.local import ProgressView
from gemfit_launch.runs.metrics_tail import seconds_left

SECONDS_BETWEEN_LINES = 5.0
PACE_STEPS = 20


class Lines:
    """Plain lines: a step every few seconds, every evaluation, every message."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.recent: list[StepRecord] = []
        self.next_line = 0.0

    def show(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, EvalRecord):
                self.say(evaluation_line(record))
            if not isinstance(record, StepRecord):
                continue
            self.recent = [*self.recent, record][-PACE_STEPS:]
            if time.monotonic() >= self.next_line or record.step == self.total:
                self.say(step_line(self.recent, self.total))
                self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def say(self, line: str) -> None:
        click.echo(line)


class Bar:
    """A progress bar, with evaluations printed above it."""

    def __init__(self, progress: Progress, task: TaskID, total: int) -> None:
        self.progress = progress
        self.task = task
        self.total = total
        self.recent: list[StepRecord] = []

    def show(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, EvalRecord):
                self.say(evaluation_line(record))
            elif isinstance(record, StepRecord):
                self.recent = [*self.recent, record][-PACE_STEPS:]
        if self.recent:
            self.progress.update(
                self.task, completed=self.recent[-1].step, state=_state(self.recent, self.total)
            )

    def say(self, line: str) -> None:
        self.progress.console.print(line)


@contextmanager
def watching(total: int) -> Iterator[ProgressView]:
    """A progress bar on a terminal, plain lines otherwise."""
    console = PlainConsole()
    if not console.is_terminal:
        yield Lines(total)
        return
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, progress.add_task("steps", total=total, state="starting"), total)


def step_line(recent: list[StepRecord], total: int) -> str:
    """One line about the last step."""
    return f"step {recent[-1].step}/{total}  {_state(recent, total)}"


def evaluation_line(record: EvalRecord) -> str:
    """One line about an evaluation."""
    return (
        f"evaluation at step {record.step}: loss {record.loss:.4f}, perplexity {record.perplexity:.2f}, "
        f"token accuracy {record.token_accuracy:.1%}"
    )


def _state(recent: list[StepRecord], total: int) -> str:
    last, left = recent[-1], seconds_left(recent, total)
    state = f"loss {last.loss:.4f}  {last.tokens_per_second:,.0f} tokens/s"
    return state + (f"  {duration(left)} left" if left is not None else "")
