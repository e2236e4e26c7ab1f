"""Inputs of a run in a report: data, plan, machines and versions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from gemfit.core.text_file import read_text_file
from gemfit.data.inspect.plots import draw_fill, draw_lengths, draw_parts, packed_by_source
from gemfit.data.inspect.stats_view import grids
from gemfit.report.blocks import Block, Chart, Charts, Code, Heading, Missing, Note, Section
from gemfit.report.folds import fold_long
from gemfit.report.load import PackView, RunReport
from gemfit.summary.plan import hyperparameters
from gemfit.summary.text_table import TextTable


def data(run: RunReport) -> Section:
    """Statistics of the pack: lengths, fill, roles, token flow."""
    if run.pack is None:
        return Section("data", "Data", (Missing(f"There are no statistics of the data: {run.no_pack}."),))
    tables = [TextTable(grid.title, tuple(grid.heads), tuple(grid.rows)) for grid in grids(run.pack.figures)]
    problems = [Note(problem, "fail") for problem in run.pack.figures["problems"]]
    return Section(
        "data", "Data", (*problems, Charts(tuple(_data_charts(run.pack))), *map(fold_long, tables))
    )


def plan(run: RunReport) -> Section:
    """The complete plan."""
    made, trained = run.plan, run.trained_plan
    overview = (
        ("model", made.recipe.model.id or "random weights"),
        *hyperparameters(trained),
        ("attention selected because", trained.attention_because or "the recipe says so"),
        ("nodes", f"{made.topology.nodes} x {made.topology.ranks_per_node} {made.topology.device}"),
        ("plan digest", made.digest),
        ("pack fingerprint", made.pack.fingerprint),
    )
    recipe = run.folder.recipe_file
    text = (
        read_text_file(recipe)
        if recipe.is_file()
        else json.dumps(made.recipe.model_dump(mode="json"), indent=2)
    )
    blocks: list[Block] = [TextTable("Overview", ("setting", "value"), overview)]
    blocks += [Note(warning, "warn") for warning in made.warnings]
    command = shlex.join(part.replace("{run_dir}", str(run.folder.root)) for part in made.command)
    blocks += [Heading("Resolved recipe"), Code(text), Heading("Command"), Code(command)]
    return Section("plan", "Plan", tuple(blocks))


def environment(run: RunReport) -> Section:
    """Versions and environment variables; machines are in the table of attempts."""
    blocks: list[Block] = [_versions(run)]
    if run.plan.env:
        blocks.append(TextTable("Environment", ("variable", "value"), tuple(run.plan.env.items())))
    return Section("environment", "Versions", tuple(blocks))


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
            counts = ", ".join(f"{part} {count:,}" for part, count in shown.items())
            yield _parts_chart(name, title, parts, counts)


def _parts_chart(name: str, title: str, parts: dict[str, int], counts: str) -> Chart:
    height = min(6.0, 0.9 + 0.35 * sum(1 for count in parts.values() if count))
    return Chart(name, f"{title}: {counts}.", lambda axes: draw_parts(axes, title, parts), height=height)


def _quantiles(spread: dict[str, float]) -> str:
    return ", ".join(f"{name} {spread[name]:,.0f}" for name in ("min", "p50", "mean", "p99", "max"))


def _versions(run: RunReport) -> TextTable:
    found: dict[str, dict[str, str]] = {"plan": run.plan.versions}
    found |= {f"attempt {record.attempt}": record.versions for record in run.history.hardware}
    # Attempts with equal versions are one column.
    columns: dict[str, tuple[list[str], dict[str, str]]] = {}
    for name, versions in found.items():
        columns.setdefault(json.dumps(versions, sort_keys=True), ([], versions))[0].append(name)
    names = dict.fromkeys(name for _, versions in columns.values() for name in versions)
    rows = tuple((name, *(v.get(name, "–") for _, v in columns.values())) for name in names)
    return TextTable("Versions", ("package", *(", ".join(who) for who, _ in columns.values())), rows)
