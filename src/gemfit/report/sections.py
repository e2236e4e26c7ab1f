"""The parts of a page that tell of the run: curves, speed, attempts, checkpoints, data, plan, machines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime

from gemfit.data.evidence.plots import draw_fill, draw_lengths, draw_parts, packed_by_source
from gemfit.data.evidence.statsview import grids
from gemfit.identity import changes, flatten
from gemfit.report.blocks import Block, Chart, Charts, Code, Fold, Heading, Missing, Note, Section, Table
from gemfit.report.curves import speed_charts, training_charts
from gemfit.report.figures import time_shares
from gemfit.report.gather import PackView, Story
from gemfit.report.words import duration, listed, number, plural, size

ROWS = 200
"""Rows of a table at most; the rest is counted."""


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
    blocks: list[Block] = [_cut(Table("When each ran, and how it ended", heads, rows))]
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
    return Section("checkpoints", "Checkpoints", (_cut(Table("Those on disk", heads, tuple(rows), note)),))


def data(story: Story) -> Section:
    """What was trained on, and what became of every token."""
    if story.pack is None:
        return Section("data", "Data", (Missing(f"There are no figures of the data: {story.no_pack}."),))
    tables = [Table(grid.title, tuple(grid.heads), tuple(grid.rows)) for grid in grids(story.pack.figures)]
    problems = [Note(problem, "fail") for problem in story.pack.figures["problems"]]
    return Section("data", "Data", (*problems, Charts(tuple(_data_charts(story.pack))), *map(_cut, tables)))


def plan(story: Story) -> Section:
    """What was to be done, completely."""
    made, batch = story.plan, story.plan.batch
    facts = (
        ("model", made.recipe.model.id or "random weights"),
        ("strategy", f"{made.recipe.strategy.label} on {plural(made.topology.world_size, 'rank')}"),
        ("nodes", f"{made.topology.nodes} x {made.topology.ranks_per_node} {made.topology.device}"),
        (
            "batch",
            f"{batch.effective} rows: {batch.per_device} a rank x {batch.world_size} ranks "
            f"x {batch.accumulation} micro-steps",
        ),
        ("row", f"{batch.seq_len:,} tokens"),
        ("steps", f"{made.steps.total:,}, {made.steps.per_epoch:,.1f} an epoch"),
        ("warm-up", f"{made.recipe.optim.warmup_steps:,} steps, {made.steps.warmup_share:.0%} of the run"),
        ("attention", f"{made.recipe.model.attention}: {made.attention_because or 'as the recipe says'}"),
        ("digest", made.digest),
        ("pack", made.pack.fingerprint),
    )
    recipe = story.run.recipe_file
    text = (
        recipe.read_text() if recipe.is_file() else json.dumps(made.recipe.model_dump(mode="json"), indent=2)
    )
    blocks: list[Block] = [Table("In short", ("what", "value"), facts)]
    blocks += [Note(warning, "warn") for warning in made.warnings]
    command = shlex.join(part.replace("{run_dir}", str(story.run.root)) for part in made.command)
    blocks += [Heading("Recipe, every value"), Code(text), Heading("Command"), Code(command)]
    return Section("plan", "Plan", tuple(blocks))


def environment(story: Story) -> Section:
    """Machines and versions."""
    blocks: list[Block] = []
    if records := story.history.hardware:
        rows = [
            (
                str(record.attempt),
                host.cpu,
                str(host.cores),
                size(host.memory),
                str(host.ranks),
                listed(sorted({f"{gpu.name} ({size(gpu.memory)})" for gpu in host.gpus})) or "none",
                str(len(host.gpus)),
            )
            for record in records
            for host in record.hosts
        ]
        heads = ("attempt", "processor", "cores", "memory", "ranks", "GPU", "GPUs")
        blocks.append(_cut(Table("Machines", heads, tuple(rows))))
    else:
        blocks.append(Missing("The run has not recorded its machines: it was made by an older version."))
    blocks.append(_versions(story))
    if story.plan.env:
        blocks.append(Table("Environment", ("variable", "value"), tuple(story.plan.env.items())))
    return Section("environment", "Machines and versions", tuple(blocks))


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
    return _cut(Table("Held-out rows during training", heads, rows))


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
    return _cut(Table("Memory", heads, tuple(rows), note))


def _changed(story: Story) -> Iterator[str]:
    """How an attempt was planned otherwise than the one before."""
    for before, after in zip(story.attempts, story.attempts[1:], strict=False):
        was, now = (
            flatten(one.plan.model_dump(mode="json", include={"recipe", "topology", "batch"}))
            for one in (before, after)
        )
        if found := changes(was, now):
            yield f"Attempt {after.number}: {'; '.join(map(str, found))}."


def _data_charts(pack: PackView) -> Iterator[Chart]:
    figures, columns = pack.figures, pack.columns
    lengths = figures["spread"]["tokens of a conversation"]
    yield Chart(
        "data-lengths",
        f"length of a conversation in tokens: {_quantiles(lengths)}.",
        lambda axes: draw_lengths(axes, columns.lengths, figures["seq_len"]),
    )
    fills = [f"{split} {counts['fill']:.2%}" for split, counts in figures["splits"].items() if counts["rows"]]
    yield Chart("data-fill", f"fill of rows: {', '.join(fills)}.", lambda axes: draw_fill(axes, columns.fill))
    for name, title, parts in (
        ("data-sources", "packed tokens by source", packed_by_source(figures)),
        ("data-roles", "tokens by role", figures["roles"]),
    ):
        shown = {part: count for part, count in parts.items() if count}
        if len(shown) > 1:
            said = ", ".join(f"{part} {count:,}" for part, count in shown.items())
            yield _parts_chart(name, title, parts, said)


def _parts_chart(name: str, title: str, parts: dict[str, int], said: str) -> Chart:
    height = min(6.0, 0.9 + 0.35 * sum(1 for count in parts.values() if count))
    return Chart(name, f"{title}: {said}.", lambda axes: draw_parts(axes, title, parts), height=height)


def _quantiles(spread: dict[str, float]) -> str:
    return ", ".join(f"{name} {spread[name]:,.0f}" for name in ("min", "p50", "mean", "p99", "max"))


def _versions(story: Story) -> Table:
    found: dict[str, dict[str, str]] = {"plan": story.plan.versions}
    found |= {f"attempt {record.attempt}": record.versions for record in story.history.hardware}
    # Attempts with equal versions are one column.
    columns: dict[str, tuple[list[str], dict[str, str]]] = {}
    for name, versions in found.items():
        columns.setdefault(json.dumps(versions, sort_keys=True), ([], versions))[0].append(name)
    names = dict.fromkeys(name for _, versions in columns.values() for name in versions)
    rows = tuple((name, *(v.get(name, "–") for _, v in columns.values())) for name in names)
    return Table("Versions", ("package", *(", ".join(who) for who, _ in columns.values())), rows)


def _cut(table: Table) -> Block:
    """A long table is folded after its first rows."""
    if len(table.rows) <= ROWS:
        return table
    note = f"{len(table.rows) - ROWS:,} more rows are not shown. {table.note}".strip()
    shown = Table(table.title, table.heads, table.rows[:ROWS], note)
    return Fold(f"{table.title}: {len(table.rows):,} rows", (shown,), printed="Folded: see the file.")


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
