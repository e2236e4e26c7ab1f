"""Ranges of nodes: the plan of each number, and the numbers on which a job trains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit_launch.planning.plan import find_problems
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.row_count import Rows, find_rows
from gemfit_launch.planning.topology import ranks_at
from gemfit_launch.predict.forecast import make_forecast

WIDEST = 1024
"""Numbers of nodes in a range: each is planned."""


@dataclass(frozen=True, slots=True)
class NodeRange:
    """The option ``--nodes``: one number, or ``MIN-MAX``."""

    smallest: int
    largest: int

    @classmethod
    def parse(cls, text: str) -> NodeRange:
        """``4`` or ``1-4``; anything else is a ``ValueError``."""
        found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text)
        if found is None:
            raise ValueError(f"{text!r} is neither a number of nodes nor a range such as 1-4")
        made = cls(int(found[1]), int(found[2] or found[1]))
        if not 1 <= made.smallest <= made.largest < made.smallest + WIDEST:
            raise ValueError(
                f"{text}: a range goes from 1 or more up to its larger end, over at most {WIDEST} numbers"
            )
        return made

    @classmethod
    def of(cls, plan: Plan) -> NodeRange:
        """The range that ``plan`` was made for."""
        counts = plan.node_counts or (plan.topology.nodes,)
        return cls(counts[0], counts[-1])

    @property
    def is_fixed(self) -> bool:
        return self.smallest == self.largest

    def __str__(self) -> str:
        return str(self.smallest) if self.is_fixed else f"{self.smallest}-{self.largest}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """One number of nodes of a range."""

    nodes: int
    ranks: int
    plan: Plan | None
    """`None` where the recipe cannot train on it."""
    gpu_bytes: int | None = None
    """Predicted memory per GPU, where it can be predicted."""
    left_out: str = ""
    """Why a job does not train on it; empty where it does."""


def plan_nodes(
    recipe: Recipe, nodes: NodeRange, site: Site, rows: Rows | None = None
) -> tuple[Plan, list[Size]]:
    """The plan for ``nodes`` nodes of ``site``, and every size of a range; writes nothing.

    The plan is that of the largest size that a job trains on, and names the others. ``UserError`` where there
    is none. A fixed number has no sizes.
    """
    if nodes.is_fixed:
        return resolve_plan(recipe, ranks_at(site, nodes.smallest), rows, site), []
    sizes = list(_sizes(recipe, nodes, site, rows or find_rows(recipe)))
    used = [size for size in sizes if not size.left_out]
    if not used:
        raise UserError(f"--nodes {nodes}: no number of nodes can train:\n" + "\n".join(describe(sizes)))
    assert used[-1].plan is not None, "a size that is used has a plan"
    counts = tuple(size.nodes for size in used)
    plan = used[-1].plan
    warnings = (*plan.warnings, *_warnings(nodes, sizes))
    # One size that is left is a fixed number.
    counts = counts if len(counts) > 1 else ()
    return plan.model_copy(update={"node_counts": counts, "warnings": warnings}), sizes


def describe(sizes: Sequence[Size]) -> list[str]:
    """Sizes that are left out and why; neighbours with the same reason are one line."""
    lines = []
    for reason, group in groupby(sizes, key=lambda size: size.left_out):
        members = list(group)
        if reason:
            lines.append(f"{counted(members[0].nodes, members[-1].nodes)}: {reason}")
    return lines


def counted(first: int, last: int) -> str:
    """Such as ``1 node`` or ``2-4 nodes``."""
    return f"{NodeRange(first, last)} {'node' if last == 1 else 'nodes'}"


def _sizes(recipe: Recipe, nodes: NodeRange, site: Site, rows: Rows) -> Iterator[Size]:
    """Every size, the smallest first.

    A larger one is used where its ranks have fewer rows each, so that a step takes less time.
    """
    fastest: tuple[int, int] | None = None
    for count in range(nodes.smallest, nodes.largest + 1):
        size = _plan_size(recipe, count, site, rows)
        if size.plan is None or size.left_out:
            yield size
            continue
        batch = size.plan.batch
        per_rank = batch.slots // batch.data_ranks
        if fastest is not None and per_rank >= fastest[1]:
            why = f"{rows_each(per_rank)} for each rank, as on {counted(fastest[0], fastest[0])}"
            yield Size(nodes=count, ranks=size.ranks, plan=size.plan, gpu_bytes=size.gpu_bytes, left_out=why)
            continue
        fastest = count, per_rank
        yield size


def rows_each(rows: int) -> str:
    """Such as ``1 row``."""
    return f"{rows} row{'s' if rows != 1 else ''}"


def _plan_size(recipe: Recipe, count: int, site: Site, rows: Rows) -> Size:
    topology = ranks_at(site, count)
    ranks = topology.world_size
    if ranks // recipe.strategy.sequence_parallel > recipe.batch.global_batch_size:
        why = f"more ranks than rows in a batch ({recipe.batch.global_batch_size})"
        return Size(nodes=count, ranks=ranks, plan=None, left_out=why)
    if problems := find_problems(recipe, topology):
        return Size(nodes=count, ranks=ranks, plan=None, left_out="; ".join(problems))
    plan = resolve_plan(recipe, topology, rows, site)
    forecast = make_forecast(plan)
    return Size(
        nodes=count,
        ranks=ranks,
        plan=plan,
        gpu_bytes=forecast.memory.gpu_bytes if forecast.memory is not None else None,
        left_out="; ".join(forecast.warnings),
    )


def _warnings(nodes: NodeRange, sizes: Sequence[Size]) -> Iterator[str]:
    yield from (f"a job does not train on {line}" for line in describe(sizes))
    *others, _ = [size for size in sizes if not size.left_out]
    for size in others:  # the plan is that of the last, and warns itself
        assert size.plan is not None, "a size that is used has a plan"
        if (batch := size.plan.batch).idle:
            yield (
                f"on {counted(size.nodes, size.nodes)}, {batch.idle} of {batch.slots} slots of each step are "
                f"idle ({batch.idle_share:.0%})"
            )
