"""Batch arithmetic: rows of one optimizer step over ranks and gradient accumulation steps."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.errors import UserError
from gemfit.schemas.base import Contract


class Batch(Contract):
    """One optimizer step: ``global_batch_size`` rows laid into ``slots`` of equal shape.

    Slot ``(m * world_size + r) * per_device_batch_size + j`` belongs to accumulation step ``m``,
    rank ``r`` and place ``j``. The last ``idle`` slots hold empty rows of zero weight, so they
    fall into the last accumulation step.
    """

    seq_len: int
    per_device_batch_size: int
    gradient_accumulation_steps: int
    world_size: int
    global_batch_size: int

    @property
    def slots(self) -> int:
        return self.per_device_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def idle(self) -> int:
        return self.slots - self.global_batch_size

    @property
    def idle_share(self) -> float:
        return self.idle / self.slots

    @property
    def tokens_per_step(self) -> int:
        return self.global_batch_size * self.seq_len

    def rank_slots(self, rank: int) -> Iterator[range]:
        """Slots of ``rank`` per accumulation step; those of ``global_batch_size`` or more are idle."""
        for accumulation_step in range(self.gradient_accumulation_steps):
            start = (accumulation_step * self.world_size + rank) * self.per_device_batch_size
            yield range(start, start + self.per_device_batch_size)


def make_batch(
    *, global_batch_size: int, max_per_device_batch_size: int, world_size: int, seq_len: int
) -> Batch:
    """The shape with the fewest idle slots, and of those the one with the fewest gradient accumulation steps.

    Raises ``UserError`` when there are more ranks than rows in a batch.
    """
    if world_size > global_batch_size:
        raise UserError(
            f"batch.global_batch_size is {global_batch_size}, "
            f"so at most {global_batch_size} ranks have work, not {world_size}; "
            f"sizes without idle slots: {_listed(sizes_without_idle(global_batch_size))}. "
            "A larger batch.global_batch_size changes the training"
        )

    def slots(per_device_batch_size: int) -> int:
        one_pass = per_device_batch_size * world_size
        return -(-global_batch_size // one_pass) * one_pass

    per_device_batch_size = min(
        range(1, max_per_device_batch_size + 1), key=lambda size: (slots(size), -size)
    )
    return Batch(
        seq_len=seq_len,
        per_device_batch_size=per_device_batch_size,
        gradient_accumulation_steps=slots(per_device_batch_size) // (per_device_batch_size * world_size),
        world_size=world_size,
        global_batch_size=global_batch_size,
    )


def sizes_without_idle(global_batch_size: int) -> list[int]:
    """World sizes that divide ``global_batch_size``: one row per rank always fits."""
    return [size for size in range(1, global_batch_size + 1) if global_batch_size % size == 0]


def nearest_without_idle(world_size: int, global_batch_size: int) -> list[int]:
    """The next smaller and the next larger world size that leave no slot idle."""
    sizes = sizes_without_idle(global_batch_size)
    below = [size for size in sizes if size < world_size][-1:]
    above = [size for size in sizes if size > world_size][:1]
    return below + above


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


class DataCursor(Contract):
    """Position in the data: one integer, independent of the world size.

    ``row`` counts rows from the start of training, so optimizer step ``k`` takes
    ``[k * global_batch_size, (k + 1) * global_batch_size)`` of an endless sequence of permuted epochs.
    """

    row: int = 0
    rows_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.row // self.rows_per_epoch

    @property
    def row_in_epoch(self) -> int:
        return self.row % self.rows_per_epoch
