"""Evaluations of several runs: in one table where they share conversations, and pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

from gemfit.evaluate.bootstrap import interval as bootstrap
from gemfit.report.blocks import Block, Charts, Note, Table
from gemfit.report.format import interval
from gemfit.report.interval_plots import dots_chart
from gemfit.report.load import Story
from gemfit.schemas.evaluation import ConversationLosses, Evaluation, Interval, SubjectScores


def measured_alike(names: Sequence[str], stories: Sequence[Story]) -> list[Block]:
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
