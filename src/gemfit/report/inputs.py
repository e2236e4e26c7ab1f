"""The parts of a page that tell what the run was given: data, plan, machines and versions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from gemfit.data.inspect.plots import draw_fill, draw_lengths, draw_parts, packed_by_source
from gemfit.data.inspect.stats_view import grids
from gemfit.report.blocks import Block, Chart, Charts, Code, Heading, Missing, Note, Section, Table
from gemfit.report.format import listed, plural, size
from gemfit.report.load import PackView, Story
from gemfit.report.truncate import cut


def data(story: Story) -> Section:
    """What was trained on, and what became of every token."""
    if story.pack is None:
        return Section("data", "Data", (Missing(f"There are no figures of the data: {story.no_pack}."),))
    tables = [Table(grid.title, tuple(grid.heads), tuple(grid.rows)) for grid in grids(story.pack.figures)]
    problems = [Note(problem, "fail") for problem in story.pack.figures["problems"]]
    return Section("data", "Data", (*problems, Charts(tuple(_data_charts(story.pack))), *map(cut, tables)))


def plan(story: Story) -> Section:
    """What was to be done, completely."""
    made, batch = story.plan, story.plan.batch
    facts = (
        ("model", made.recipe.model.id or "random weights"),
        ("strategy", f"{made.recipe.strategy.label} on {plural(made.topology.world_size, 'rank')}"),
        ("nodes", f"{made.topology.nodes} x {made.topology.ranks_per_node} {made.topology.device}"),
        (
            "batch",
            f"{batch.global_batch_size} rows: "
            f"{batch.per_device_batch_size} per rank x {batch.world_size} ranks "
            f"x {batch.gradient_accumulation_steps} micro-steps",
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
        blocks.append(cut(Table("Machines", heads, tuple(rows))))
    else:
        blocks.append(Missing("The run has not recorded its machines: it was made by an older version."))
    blocks.append(_versions(story))
    if story.plan.env:
        blocks.append(Table("Environment", ("variable", "value"), tuple(story.plan.env.items())))
    return Section("environment", "Machines and versions", tuple(blocks))


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
