"""The parts of a page that tell how the run went: curves, speed, attempts, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from gemfit.report.blocks import Block, Charts, Missing, Note, Section, Table
from gemfit.report.curves import training_charts
from gemfit.report.figures import time_shares
from gemfit.report.format import duration, number, plural, size
from gemfit.report.load import Story
from gemfit.report.speed_charts import speed_charts
from gemfit.report.truncate import cut
from gemfit.schemas.training_identity import changes, flatten

NAMED = 20
"""Numbers of attempts that are listed one by one."""


def training(story: Story) -> Section:
    """Losses, learning rate, gradients."""
    return Section("training", "Training", (Charts(training_charts(story)), _heldout(story)))


def speed(story: Story) -> Section:
    """Tokens a second, MFU, where the time went, memory."""
    blocks: list[Block] = [Charts(speed_charts(story)), _times(story)]
    if story.facts.no_mfu:
        blocks.append(Note(f"MFU is not shown: {story.facts.no_mfu}."))
    if story.history.memory:
        blocks.append(_memory(story))
    else:
        blocks.append(Missing("No attempt has ended in order, so none has told how much memory it held."))
    return Section("speed", "Speed and memory", tuple(blocks))


def attempts(story: Story) -> Section:
    """When each attempt ran, and how it ended."""
    heads = ("attempt", "began (UTC)", "took", "steps", "strategy", "ranks", "ended", "why", "done again")
    rows = tuple(
        (
            str(one.number),
            _moment(one.begin),
            duration(one.end - one.begin),
            f"{one.first_step:,} to {one.last_step:,}" if one.steps else "none",
            one.plan.recipe.strategy.label,
            str(one.plan.topology.world_size),
            one.how,
            " on ".join([one.reason or "–", ", ".join(one.nodes)]) if one.nodes else one.reason or "–",
            f"{len(one.redone):,}",
        )
        for one in story.attempts
    )
    blocks: list[Block] = [cut(Table("When each ran, and how it ended", heads, rows))]
    silent = sorted(set(range(1, story.run.attempt + 1)) - {one.number for one in story.attempts})
    if silent:
        why = f" The last one: {story.state}" + (f", {reason}." if (reason := _reason(story)) else ".")
        last = why if silent[-1] == story.run.attempt else ""
        blocks.append(Note(f"Without a record: {plural(len(silent), 'attempt')} ({_numbers(silent)}).{last}"))
    blocks += [Note(text) for text in _changed(story)]
    return Section("attempts", "Attempts", tuple(blocks))


def checkpoints(story: Story) -> Section:
    """What can be resumed or exported."""
    if not story.checkpoints:
        return Section("checkpoints", "Checkpoints", (Missing("There is no checkpoint yet."),))
    rows = []
    for one in story.checkpoints:
        m, state = one.manifest, one.problem or "complete"
        if m is None:
            rows.append((one.folder, *["–"] * 5, state))
            continue
        held = number(m.eval_loss, ".4f")
        total = size(sum(file.bytes for file in m.files))
        rows.append((f"{m.step:,}", held, m.strategy, str(m.world_size), str(m.attempt), total, state))
    heads = ("step", "held-out loss", "strategy", "ranks", "attempt", "size", "state")
    note = "By names and sizes; `gemfit checkpoints --verify` compares every byte."
    return Section("checkpoints", "Checkpoints", (cut(Table("Those on disk", heads, tuple(rows), note)),))


def _heldout(story: Story) -> Block:
    if not story.history.evaluations:
        return Missing(
            "Nothing was measured on held-out rows: data.validation_share is 0, or it is too early."
        )
    rows = tuple(
        (
            f"{e.step:,}",
            f"{e.loss:.4f}",
            f"{e.perplexity:.4g}",
            f"{e.token_accuracy:.2%}",
            f"{e.tokens:,}",
            duration(e.seconds),
        )
        for e in story.history.evaluations
    )
    heads = ("step", "loss", "perplexity", "token accuracy", "tokens", "took")
    return cut(Table("Held-out rows during training", heads, rows))


def _times(story: Story) -> Table:
    parts = time_shares(story)
    whole = sum(parts.values()) or 1.0
    rows = tuple((name, duration(seconds), f"{seconds / whole:.2%}") for name, seconds in parts.items())
    note = "Starting and pauses is what no record tells of: loading, compiling, waiting in a queue."
    return Table("Wall time", ("part", "time", "share"), (*rows, ("all", duration(whole), "100.00%")), note)


def _memory(story: Story) -> Block:
    record, facts = story.history.memory[-1], story.facts
    rows = [
        (
            f"rank {index}",
            size(rank.held),
            size(rank.host),
            size(rank.gpu),
            size(rank.gpu_reserved),
        )
        for index, rank in enumerate(record.ranks)
    ]
    if facts.gpu_bytes is not None or facts.host_bytes is not None:
        rows.append(("predicted", "–", size(facts.host_bytes), "–", size(facts.gpu_bytes)))
    note = "Nothing is predicted for this run." if len(rows) == len(record.ranks) else ""
    heads = ("rank", "host, before training", "host, at most", "GPU, in tensors", "GPU, by the allocator")
    return cut(Table("Memory", heads, tuple(rows), note))


def _changed(story: Story) -> Iterator[str]:
    """How an attempt was planned otherwise than the one before."""
    for before, after in zip(story.attempts, story.attempts[1:], strict=False):
        was, now = (
            flatten(one.plan.model_dump(mode="json", include={"recipe", "topology", "batch"}))
            for one in (before, after)
        )
        if found := changes(was, now):
            yield f"Attempt {after.number}: {'; '.join(map(str, found))}."


def _reason(story: Story) -> str:
    return story.verdict.reason if story.verdict else ""


def _numbers(found: list[int]) -> str:
    return ", ".join(map(str, found[:NAMED])) + ("…" if len(found) > NAMED else "")


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
