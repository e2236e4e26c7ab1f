"""How one optimizer step is cut over ranks and micro-steps. The only place of this arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.contract import Contract
from gemfit.errors import UserError


class Batch(Contract):
    """One optimizer step: ``effective`` rows laid into ``slots`` of equal shape.

    Slot ``(m * world_size + r) * per_device + j`` belongs to micro-step ``m``, rank ``r`` and place
    ``j``. The last ``idle`` slots hold empty rows of zero weight, so they fall into the last
    micro-step.
    """

    seq_len: int
    per_device: int
    accumulation: int
    world_size: int
    effective: int

    @property
    def slots(self) -> int:
        return self.per_device * self.accumulation * self.world_size

    @property
    def idle(self) -> int:
        return self.slots - self.effective

    @property
    def idle_share(self) -> float:
        return self.idle / self.slots

    @property
    def tokens_per_step(self) -> int:
        return self.effective * self.seq_len

    def rank_slots(self, rank: int) -> Iterator[range]:
        """For each micro-step, the slots of ``rank``; a slot of ``effective`` or more is empty."""
        for micro in range(self.accumulation):
            start = (micro * self.world_size + rank) * self.per_device
            yield range(start, start + self.per_device)


def make_batch(*, effective: int, per_device_max: int, world_size: int, seq_len: int) -> Batch:
    """The shape with the fewest idle slots, and of those the one with the fewest micro-steps.

    Raises ``UserError`` when there are more ranks than rows in a batch.
    """
    if world_size > effective:
        raise UserError(
            f"batch.effective is {effective}, so at most {effective} ranks have work, not {world_size}; "
            f"sizes without idle slots: {_listed(sizes_without_idle(effective))}. "
            "A larger batch.effective changes the training"
        )

    def slots(per_device: int) -> int:
        one_pass = per_device * world_size
        return -(-effective // one_pass) * one_pass

    per_device = min(range(1, per_device_max + 1), key=lambda size: (slots(size), -size))
    return Batch(
        seq_len=seq_len,
        per_device=per_device,
        accumulation=slots(per_device) // (per_device * world_size),
        world_size=world_size,
        effective=effective,
    )


def sizes_without_idle(effective: int) -> list[int]:
    """World sizes that divide ``effective``: one row per rank always fits."""
    return [size for size in range(1, effective + 1) if effective % size == 0]


def nearest_without_idle(world_size: int, effective: int) -> list[int]:
    """The next smaller and the next larger world size that leave no slot idle."""
    sizes = sizes_without_idle(effective)
    below = [size for size in sizes if size < world_size][-1:]
    above = [size for size in sizes if size > world_size][:1]
    return below + above


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


class DataCursor(Contract):
    """The position in the data: one integer, whatever the world size.

    ``row`` counts rows from the start of training, so optimizer step ``k`` takes
    ``[k * effective, (k + 1) * effective)`` of an endless sequence of permuted epochs.
    """

    row: int = 0
    rows_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.row // self.rows_per_epoch

    @property
    def row_in_epoch(self) -> int:
        return self.row % self.rows_per_epoch
