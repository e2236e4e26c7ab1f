"""Several runs side by side: curves, what was set otherwise, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gemfit.evaluate.bootstrap import interval as bootstrap
from gemfit.evaluation import ConversationLosses, Evaluation, Interval, SubjectScores
from gemfit.identity import flatten
from gemfit.report.blocks import Block, Chart, Charts, Note, Section, Table
from gemfit.report.dots import dots_chart, lines_chart
from gemfit.report.drawing import smoothed, thinned
from gemfit.report.figures import Figures, cumulative_tokens, key_figures
from gemfit.report.gather import Story
from gemfit.report.words import duration, interval, number

SMOOTHED_FROM = 100
Points = list[tuple[float, float]]


def comparison(stories: Sequence[Story]) -> Section:
    """The first of ``stories`` is the one that the page is about."""
    names = unique_names(stories)
    blocks: list[Block] = [Charts(tuple(_charts(names, stories))), _results(names, stories)]
    blocks += [_settings(names, stories), *_evaluations(names, stories)]
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
    flats = [
        flatten(
            story.plan.model_dump(mode="json", include={"recipe", "topology", "batch", "pack", "versions"})
        )
        for story in stories
    ]
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


def _evaluations(names: Sequence[str], stories: Sequence[Story]) -> list[Block]:
    """Runs that were measured on the same held-out conversations stand in one table."""
    alike: dict[tuple[str, str], list[tuple[str, Evaluation]]] = {}
    for name, story in zip(names, stories, strict=True):
        if (found := story.evaluation) is not None:
            alike.setdefault((found.pack, found.split), []).append((name, found))
    blocks: list[Block] = []
    for index, ((pack, split), group) in enumerate(alike.items()):
        subjects = [(f"{name}: {s.name}", s) for name, one in group for s in one.subjects]
        blocks.append(_measured(f"Evaluation on {split} of pack {pack[:12]}", subjects))
        losses = {name: {"loss": subject.overall.loss} for name, subject in subjects}
        chart = dots_chart(
            f"compare-eval-{index}", f"loss on {split}", losses, label="nats per token", says=interval
        )
        blocks.append(Charts((chart,)))
    if (paired := _paired(names, stories)) is not None:
        blocks.append(paired)
    if len(alike) > 1:
        blocks.append(Note("The runs were not measured on the same conversations: compare within a table."))
    without = [name for name, story in zip(names, stories, strict=True) if story.evaluation is None]
    if without:
        blocks.append(Note(f"Not evaluated: {', '.join(without)}. `gemfit eval RUN` does that."))
    return blocks


def _paired(names: Sequence[str], stories: Sequence[Story]) -> Table | None:
    """The newest model of each run less that of the first, over the conversations that both were given."""
    first, *others = zip(names, stories, strict=True)
    rows = []
    for name, story in others:
        if (found := _difference(first[1], story)) is not None:
            difference, shared = found
            rows.append((name, interval(difference, "+.4f"), f"{shared:,}"))
    if not rows:
        return None
    note = (
        "Each conversation is compared with itself: an interval without 0 is a difference that is there. "
        "Of each run, the model that was evaluated last."
    )
    heads = ("run", f"loss less that of {first[0]} (nats a token)", "conversations")
    return Table("Paired differences", heads, tuple(rows), note)


def _difference(one: Story, other: Story) -> tuple[Interval, int] | None:
    """``None`` where the two were not measured on the same conversations."""
    a, b = one.evaluation, other.evaluation
    if a is None or b is None or one.losses is None or other.losses is None:
        return None
    if (a.pack, a.split) != (b.pack, b.split):
        return None
    was, now = _by_document(a, one.losses), _by_document(b, other.losses)
    shared = sorted(was.keys() & now.keys())
    if not shared:
        return None
    found = bootstrap(
        [now[document][0] - was[document][0] for document in shared],
        [was[document][1] for document in shared],
        resamples=a.resamples,
        confidence=a.confidence,
        seed=a.seed,
    )
    return found, len(shared)


def _by_document(found: Evaluation, losses: ConversationLosses) -> dict[int, tuple[float, int]]:
    """Sum of the losses and number of tokens of each conversation, of the last model that has them."""
    name = [subject.name for subject in found.subjects if subject.name in losses.losses][-1]
    return {
        document: (loss, tokens)
        for document, loss, tokens in zip(losses.documents, losses.losses[name], losses.tokens, strict=True)
    }


def _measured(title: str, subjects: Sequence[tuple[str, SubjectScores]]) -> Table:
    rows = tuple(
        (
            name,
            interval(subject.overall.loss),
            interval(subject.overall.perplexity, ".4g"),
            f"{subject.overall.conversations:,}",
        )
        for name, subject in subjects
    )
    return Table(title, ("run and model", "loss (nats a token)", "perplexity", "conversations"), rows)


def _written(value: object) -> str:
    return "null" if value is None else str(value)
