"""Comparison of several runs: curves, results, and settings that differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from gemfit.report.blocks import Block, Chart, Charts, Note, Section
from gemfit.report.drawing import smoothed, thinned
from gemfit.report.figures import KeyFigures, cumulative_tokens, key_figures
from gemfit.report.interval_plots import lines_chart
from gemfit.report.load import RunReport
from gemfit.report.paired_comparison import shared_evaluations
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.training_identity import flatten
from gemfit.summary.format import duration, number
from gemfit.summary.text_table import TextTable

SMOOTHED_FROM = 100
SETTINGS: dict[str, Any] = {
    "recipe": {name for name in Recipe.model_fields if name != "description"},
    "topology": True,
    "batch": True,
    "pack": {"fingerprint"},
    "versions": True,
}
"""Parts of a plan that are compared."""
Points = list[tuple[float, float]]


def comparison(runs: Sequence[RunReport]) -> Section:
    """Section that compares ``runs``; the first is that of the page."""
    names = unique_names(runs)
    blocks: list[Block] = [Charts(tuple(_charts(names, runs))), _results(names, runs)]
    blocks += [_settings(names, runs), *shared_evaluations(names, runs)]
    return Section("comparison", "Compared runs", tuple(blocks))


def unique_names(runs: Sequence[RunReport]) -> list[str]:
    """Names of the folders; whole paths where names are equal."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.folder.root)
        for name, run in zip(names, runs, strict=True)
    ]


def differing(runs: Sequence[RunReport]) -> dict[str, list[str]]:
    """Every setting that differs between runs: recipe, ranks, batch and data."""
    flats = [flatten(run.trained_plan.model_dump(mode="json", include=SETTINGS)) for run in runs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    written = {key: [_written(flat.get(key)) for flat in flats] for key in keys}
    return {key: values for key, values in written.items() if len(set(values)) > 1}


def _charts(names: Sequence[str], runs: Sequence[RunReport]) -> list[Chart]:
    losses = {name: _smooth(_by_step(run)) for name, run in zip(names, runs, strict=True)}
    made = [_lines("compare-loss", "training loss by step", losses, "optimizer step")]
    held = {
        name: [(float(e.step), e.loss) for e in run.history.evaluations]
        for name, run in zip(names, runs, strict=True)
        if run.history.evaluations
    }
    if held:
        made.append(_lines("compare-validation", "validation loss by step", held, "optimizer step"))
    sums = [cumulative_tokens(run.steps) for run in runs]
    if all(one is not None for one in sums):
        tokens = {
            name: _smooth([(float(t), s.loss) for t, s in zip(total or [], run.steps, strict=True)])
            for name, run, total in zip(names, runs, sums, strict=True)
        }
        made.append(_lines("compare-loss-tokens", "training loss by tokens", tokens, "tokens"))
    return made


def _lines(name: str, title: str, curves: dict[str, Points], xlabel: str) -> Chart:
    return lines_chart(name, title, curves, xlabel=xlabel, ylabel="nats per token")


def _by_step(run: RunReport) -> Points:
    return [(float(step.step), step.loss) for step in run.steps]


def _smooth(points: Points) -> Points:
    """Thinned; a long run is smoothed over 2 % of its steps."""
    x, y = np.array(points, np.float64).T
    if len(points) >= SMOOTHED_FROM:
        y = smoothed(y, len(points) // 50)
    return [(float(a), float(b)) for a, b in zip(*thinned(x, y), strict=True)]


def _results(names: Sequence[str], runs: Sequence[RunReport]) -> TextTable:
    found = [key_figures(run) for run in runs]
    rows = (
        ("state", *(run.state for run in runs)),
        ("steps", *(f"{f.step:,} of {f.total_steps:,}" for f in found)),
        ("best validation loss", *(_best(f) for f in found)),
        ("last training loss", *(number(f.loss, ".4f") for f in found)),
        ("tokens", *(number(f.tokens, ",d") for f in found)),
        ("trained tokens", *(number(f.trained_tokens, ",d") for f in found)),
        ("tokens/s", *(number(f.tokens_per_second, ",.0f") for f in found)),
        ("MFU", *(number(f.mfu, ".1%") for f in found)),
        ("wall time", *(duration(f.wall_seconds) for f in found)),
        ("attempts", *(str(len(run.attempts)) for run in runs)),
    )
    return TextTable("Results", ("figure", *names), rows)


def _best(figures: KeyFigures) -> str:
    return f"{figures.best.loss:.4f} at step {figures.best.step:,}" if figures.best else "–"


def _settings(names: Sequence[str], runs: Sequence[RunReport]) -> Block:
    rows = tuple((key, *values) for key, values in differing(runs).items())
    if not rows:
        return Note("All settings of these runs are the same.")
    return TextTable("Settings that differ", ("setting", *names), rows, "All others are the same.")


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
