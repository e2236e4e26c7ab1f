"""Goodput of a run: what its allocated GPU-seconds were spent on."""

from __future__ import annotations

from typing import Literal

from gemfit.schemas.base import Contract

GoodputPart = Literal[
    "kept steps",
    "start",
    "evaluation",
    "saving",
    "replayed steps",
    "idle slots",
    "idle nodes",
    "slow-rank wait",
    "hang",
    "other",
]
"""Causes, in the order in which they are shown."""


class Goodput(Contract):
    """Allocated time of a run over all its attempts, by cause."""

    allocated_seconds: float
    """The seconds of each attempt times its ranks, one GPU each, and those of nodes that it left idle."""
    parts: dict[GoodputPart, float]
    """The same by cause: they sum to ``allocated_seconds``."""
    between_seconds: float
    """Wall time between the attempts, in queues and pauses; nothing is allocated in it."""
    attempts: int
    ranks: tuple[int, ...]
    """World sizes of the attempts, in order; a size that stays is listed once."""
    device: Literal["cuda", "cpu"]
    share: float
    """Kept steps as a share of ``allocated_seconds``, 0 to 1."""
    price: float | None = None
    """Of one GPU-hour."""
    cost: dict[GoodputPart, float] | None = None
    """The parts in money, at `price`."""
