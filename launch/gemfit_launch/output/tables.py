"""Tables for the terminal, at most 100 columns wide; plain text where the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gemfit.core.plain_console import PlainConsole
from gemfit.schemas.manifest import PackManifest
from gemfit.summary.format import duration, number, size
from gemfit.summary.goodput import goodput_line
from gemfit.summary.pack import filtered, split_table
from gemfit_launch.runs.checkpoints import CheckpointStatus
from gemfit_launch.runs.status import RunStatus

WIDTH = 100


def console() -> PlainConsole:
    """A console on the current standard output, at most ``WIDTH`` columns wide."""
    probe = PlainConsole(file=sys.stdout)
    width = min(probe.width, WIDTH) if probe.is_terminal else WIDTH
    return PlainConsole(file=sys.stdout, width=width)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> Table:
    """A table with a head; the columns in ``numbers`` are right-aligned."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        right = column in numbers
        made.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def facts(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """A title and two columns: name and value."""
    made = Table(
        title=title, box=None, pad_edge=False, title_justify="left", show_header=False, title_style="bold"
    )
    made.add_column(style="dim", no_wrap=True, min_width=20)
    made.add_column(overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def show_pack(manifest: PackManifest, folder: str) -> None:
    """Counts of a pack, and what was filtered."""
    out, splits = console(), split_table(manifest)
    out.print(table(splits.heads, splits.rows, numbers=splits.numeric_heads))
    out.print()
    out.print(facts("Filtered", filtered(manifest)))
    out.print()
    out.print(folder, soft_wrap=True)


def show_status(statuses: Sequence[RunStatus]) -> None:
    """One line per run; below, why a job waits and why a run ended."""
    with_jobs = any(status.job is not None for status in statuses)
    jobs = ["job"] if with_jobs else []
    names = ["run", "state", *jobs, "attempt", "step", "loss", "eval loss", "tokens/s", "left"]
    rows = [
        (
            status.run,
            status.state,
            *([str(status.job or "-")] if with_jobs else []),
            str(status.attempt),
            f"{status.step}/{status.total_steps}",
            number(status.loss, ".4f"),
            number(status.eval_loss, ".4f"),
            number(status.tokens_per_second, ",.0f"),
            duration(status.seconds_left),
        )
        for status in statuses
    ]
    out = console()
    out.print(table(names, rows, numbers=names[2:]))
    for status in statuses:
        if status.node_counts and status.nodes:
            idle = f"; {', '.join(status.idle_nodes)} idle" if status.idle_nodes else ""
            counts = f"{status.node_counts[0]}-{status.node_counts[-1]}"
            out.print(
                f"\n{status.run}: {len(status.nodes)} of {counts} nodes: {', '.join(status.nodes)}{idle}"
            )
        if status.waits_for:
            out.print(f"\n{status.run}: waits: {status.waits_for}")
        if status.reason:
            out.print(f"\n{status.run}: {status.reason}")
        for sentence in status.slow_ranks:
            out.print(f"\n{status.run}: {sentence}")
        if status.goodput is not None:
            out.print(f"\n{status.run}: {goodput_line(status.goodput)}")


def show_checkpoints(checkpoints: Sequence[CheckpointStatus]) -> None:
    """One line per checkpoint; below, the problems of damaged ones."""
    names = ["step", "attempt", "strategy", "ranks", "size", "eval loss", "state"]
    rows = [
        (
            number(status.step, "d"),
            number(status.attempt, "d"),
            status.strategy or "-",
            number(status.world_size, "d"),
            size(status.bytes),
            number(status.eval_loss, ".4f"),
            "damaged" if status.problem else "valid" if status.verified else "complete",
        )
        for status in checkpoints
    ]
    out = console()
    out.print(table(names, rows, numbers=[names[0], names[1], *names[3:6]]))
    for status in checkpoints:
        if status.problem:
            out.print(f"\n{status.folder}: {status.problem}", soft_wrap=True)
