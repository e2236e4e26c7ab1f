"""The sizes of a range of nodes, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from gemfit_launch.output.tables import table
from gemfit_launch.planning.node_range import NodeRange, Size
from gemfit_launch.predict.memory import gigabytes

NUMBERS = ("nodes", "ranks", "rows per rank", "gradient accumulation steps", "idle slots", "memory per GPU")


def sizes_json(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Every size; ``left_out`` is empty where a job trains on it, ``batch`` null where none can."""
    return [
        {
            "nodes": size.nodes,
            "ranks": size.ranks,
            "batch": _batch_json(size),
            "gpu_bytes": size.gpu_bytes,
            "left_out": size.left_out,
        }
        for size in sizes
    ]


def sizes_table(sizes: Sequence[Size]) -> Table:
    """One line for each size; neighbours that cannot train for the same reason share one.

    The reasons are among the warnings of the plan.
    """
    return table([*NUMBERS, "used"], _lines(sizes), numbers=NUMBERS)


def _lines(sizes: Sequence[Size]) -> Iterator[tuple[str, ...]]:
    for reason, group in groupby(sizes, key=lambda size: size.left_out if size.plan is None else None):
        members = list(group)
        if reason is not None:
            nodes = NodeRange(members[0].nodes, members[-1].nodes)
            yield (str(nodes), str(NodeRange(members[0].ranks, members[-1].ranks)), *4 * ("-",), "no")
            continue
        yield from map(_line, members)


def _line(size: Size) -> tuple[str, ...]:
    assert size.plan is not None, "sizes without a plan are grouped"
    batch = size.plan.batch
    return (
        str(size.nodes),
        str(size.ranks),
        str(batch.slots // batch.data_ranks),
        str(batch.gradient_accumulation_steps),
        f"{batch.idle} of {batch.slots}" if batch.idle else "0",
        gigabytes(size.gpu_bytes) if size.gpu_bytes is not None else "-",
        "no" if size.left_out else "yes",
    )


def _batch_json(size: Size) -> dict[str, int] | None:
    if size.plan is None:
        return None
    batch = size.plan.batch
    return batch.model_dump(mode="json") | {"slots": batch.slots, "idle": batch.idle}
