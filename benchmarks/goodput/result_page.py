"""The page of the benchmark: what was done, the table, and each event."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from accounting import DoneStep, largest_difference
from event_trace import LONGEST_GAP, NOTICE, SHORTEST_GAP, PlannedEvent
from trace_run import REPAIR_SECONDS

TEMPLATE = Path(__file__).with_name("page_template.md")
SIDES = {"gemfit": "gemfit", "trainer": "HF Trainer"}


def page(
    found: Mapping[str, Mapping[str, Any]],
    trace: Sequence[PlannedEvent],
    *,
    slurm: str,
    options: argparse.Namespace,
) -> str:
    """Markdown of all parts that were measured with ``options`` of the command."""
    traced = {who: found[f"trace-{who}"] for who in SIDES}
    unbroken = {who: found[f"unbroken-{who}"] for who in SIDES}
    gap = trace[-1].at / len(trace)
    save_seconds = options.save_steps * traced["gemfit"]["step_seconds"]
    return TEMPLATE.read_text().format(
        today=date.today(),
        slurm=slurm,
        cores=os.cpu_count(),
        torch=version("torch"),
        transformers=version("transformers"),
        rows="".join(_rows(traced, unbroken)),
        ratio=traced["gemfit"]["goodput"] / traced["trainer"]["goodput"],
        save_steps=options.save_steps,
        count=len(trace),
        command=_command(options),
        kinds="".join(_kind_rows(trace)),
        gap=gap,
        shortest=options.stretch * SHORTEST_GAP,
        longest=options.stretch * LONGEST_GAP,
        repair=REPAIR_SECONDS,
        save_seconds=save_seconds,
        saves_in_gap=gap / save_seconds,
        gap_hours=gap / save_seconds / 2,
        events="".join(_event_rows(traced, trace)),
    )


def _command(options: argparse.Namespace) -> str:
    names = ("seed", "events", "stretch", "save_steps")
    words = [f"--{name.replace('_', '-')} {getattr(options, name):g}" for name in names]
    return " ".join(["python benchmarks/goodput", *words])


def _rows(traced: Mapping[str, Any], unbroken: Mapping[str, Any]) -> list[str]:
    ours, peer = (_column(traced[who], unbroken[who]) for who in SIDES)
    return [f"| {name} | {ours[name]} | {peer[name]} |\n" for name in ours]


def _column(found: Mapping[str, Any], unbroken: Mapping[str, Any]) -> dict[str, str]:
    back = [one["seconds"] for one in found["recoveries"] if one["seconds"] is not None]
    both, difference = largest_difference(_steps(found), _steps(unbroken))
    none = len(found["recoveries"]) - len(back)
    return {
        "goodput": f"{found['goodput']:.1%}",
        "allocated, rank-seconds": f"{2 * found['allocated_seconds']:.0f}",
        "kept steps": f"{found['kept_steps']}",
        "median seconds of a step": f"{found['step_seconds']:.2f}",
        "replayed steps": f"{found['replayed_steps']}",
        "of them lost where there was notice": f"{found['lost_with_notice']}",
        "seconds to come back, median (longest)": f"{median(back):.1f} ({max(back):.1f})" if back else "-",
        "events after which no new step was done before the next": f"{none}",
        "largest difference of a loss from the unbroken run": f"{difference:.1e} over {both} steps",
    }


def _kind_rows(trace: Sequence[PlannedEvent]) -> list[str]:
    counts = Counter(event.kind for event in trace)
    return [f"| {counts[kind]} | {kind} | {notice} |\n" for kind, notice in NOTICE.items()]


def _event_rows(traced: Mapping[str, Any], trace: Sequence[PlannedEvent]) -> list[str]:
    rows = []
    for number, event in enumerate(trace):
        cells = [f"{event.at:.0f}", event.kind]
        for who in SIDES:
            one, late = traced[who]["recoveries"][number], traced[who]["events"][number]["late"]
            cells += ["-" if one["lost_steps"] is None else str(one["lost_steps"])]
            cells += ["-" if one["seconds"] is None else f"{one['seconds']:.1f}", f"{late:.1f}"]
        rows.append(f"| {' | '.join(cells)} |\n")
    return rows


def _steps(found: Mapping[str, Any]) -> list[DoneStep]:
    return [DoneStep(**line) for line in found["steps"]]
