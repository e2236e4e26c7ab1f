"""Several runs side by side: curves, what was set otherwise, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from gemfit.report.blocks import Block, Chart, Charts, Note, Section, Table
from gemfit.report.drawing import smoothed, thinned
from gemfit.report.figures import Figures, cumulative_tokens, key_figures
from gemfit.report.format import duration, number
from gemfit.report.interval_plots import lines_chart
from gemfit.report.load import Story
from gemfit.report.paired_comparison import measured_alike
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.training_identity import flatten

SMOOTHED_FROM = 100
SETTINGS: dict[str, Any] = {
    "recipe": {name for name in Recipe.model_fields if name != "description"},
    "topology": True,
    "batch": True,
    "pack": {"fingerprint"},
    "versions": True,
}
"""Parts of a plan that runs are compared by."""
Points = list[tuple[float, float]]


def comparison(stories: Sequence[Story]) -> Section:
    """The first of ``stories`` is the one that the page is about."""
    names = unique_names(stories)
    blocks: list[Block] = [Charts(tuple(_charts(names, stories))), _results(names, stories)]
    blocks += [_settings(names, stories), *measured_alike(names, stories)]
    return Section("comparison", "Compared runs", tuple(blocks))


def unique_names(stories: Sequence[Story]) -> list[str]:
    """The folders' names; where two are called alike, their whole paths."""
    names = [story.name for story in stories]
    return [
        name if names.count(name) == 1 else str(story.run.root)
        for name, story in zip(names, stories, strict=True)
    ]


def differing(stories: Sequence[Story]) -> dict[str, list[str]]:
    """Every setting that is not the same in all runs: recipe, ranks, batch and data."""
    flats = [flatten(story.plan.model_dump(mode="json", include=SETTINGS)) for story in stories]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    written = {key: [_written(flat.get(key)) for flat in flats] for key in keys}
    return {key: values for key, values in written.items() if len(set(values)) > 1}


def _charts(names: Sequence[str], stories: Sequence[Story]) -> list[Chart]:
    losses = {name: _smooth(_by_step(story)) for name, story in zip(names, stories, strict=True)}
    made = [_lines("compare-loss", "training loss by step", losses, "optimizer step")]
    held = {
        name: [(float(e.step), e.loss) for e in story.history.evaluations]
        for name, story in zip(names, stories, strict=True)
        if story.history.evaluations
    }
    if held:
        made.append(_lines("compare-heldout", "held-out loss by step", held, "optimizer step"))
    sums = [cumulative_tokens(story.steps) for story in stories]
    if all(one is not None for one in sums):
        tokens = {
            name: _smooth([(float(t), s.loss) for t, s in zip(total or [], story.steps, strict=True)])
            for name, story, total in zip(names, stories, sums, strict=True)
        }
        made.append(_lines("compare-loss-tokens", "training loss by tokens", tokens, "tokens"))
    return made


def _lines(name: str, title: str, curves: dict[str, Points], xlabel: str) -> Chart:
    return lines_chart(name, title, curves, xlabel=xlabel, ylabel="nats per token")


def _by_step(story: Story) -> Points:
    return [(float(step.step), step.loss) for step in story.steps]


def _smooth(points: Points) -> Points:
    """A mean over 2 % of a long run, thinned."""
    x, y = np.array(points, np.float64).T
    if len(points) >= SMOOTHED_FROM:
        y = smoothed(y, len(points) // 50)
    return [(float(a), float(b)) for a, b in zip(*thinned(x, y), strict=True)]


def _results(names: Sequence[str], stories: Sequence[Story]) -> Table:
    found = [key_figures(story) for story in stories]
    rows = (
        ("state", *(story.state for story in stories)),
        ("steps", *(f"{f.step:,} of {f.total_steps:,}" for f in found)),
        ("best held-out loss", *(_best(f) for f in found)),
        ("last training loss", *(number(f.loss, ".4f") for f in found)),
        ("tokens", *(number(f.tokens, ",d") for f in found)),
        ("trained tokens", *(number(f.trained_tokens, ",d") for f in found)),
        ("tokens a second", *(number(f.tokens_per_second, ",.0f") for f in found)),
        ("MFU", *(number(f.mfu, ".1%") for f in found)),
        ("wall time", *(duration(f.wall_seconds) for f in found)),
        ("attempts", *(str(len(story.attempts)) for story in stories)),
    )
    return Table("Results", ("figure", *names), rows)


def _best(figures: Figures) -> str:
    return f"{figures.best.loss:.4f} at step {figures.best.step:,}" if figures.best else "–"


def _settings(names: Sequence[str], stories: Sequence[Story]) -> Block:
    rows = tuple((key, *values) for key, values in differing(stories).items())
    if not rows:
        return Note("All settings of these runs are the same.")
    return Table("Settings that differ", ("setting", *names), rows, "All others are the same.")


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
