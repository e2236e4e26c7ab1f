"""Batch arithmetic: rows of one optimizer step over ranks and gradient accumulation steps."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.errors import UserError
from gemfit.schemas.base import Contract


class Batch(Contract):
    """One optimizer step: ``global_batch_size`` rows laid into ``slots`` of equal shape.

    Slot ``(m * data_ranks + d) * per_device_batch_size + j`` belongs to accumulation step ``m``, data rank
    ``d`` and place ``j``. Data rank ``d`` is one rank, or the ``sequence_parallel`` neighbouring ranks that
    hold a slice of each of its rows. The last ``idle`` slots hold empty rows of zero weight, so they fall
    into the last accumulation step.
    """

    seq_len: int
    per_device_batch_size: int
    gradient_accumulation_steps: int
    world_size: int
    global_batch_size: int
    sequence_parallel: int = 1
    """Ranks that share each row."""

    @property
    def data_ranks(self) -> int:
        """Ranks, or groups of ranks that share their rows, that take rows of their own."""
        return self.world_size // self.sequence_parallel

    def data_rank(self, rank: int) -> int:
        """The data rank that ``rank`` belongs to."""
        return rank // self.sequence_parallel

    @property
    def slots(self) -> int:
        return self.per_device_batch_size * self.gradient_accumulation_steps * self.data_ranks

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
            data_slot = accumulation_step * self.data_ranks + self.data_rank(rank)
            start = data_slot * self.per_device_batch_size
            yield range(start, start + self.per_device_batch_size)


def make_batch(
    *,
    global_batch_size: int,
    max_per_device_batch_size: int,
    world_size: int,
    seq_len: int,
    sequence_parallel: int = 1,
) -> Batch:
    """The shape with the fewest idle slots, and of those the one with the fewest gradient accumulation steps.

    Raises ``UserError`` when there are more data ranks than rows in a batch, or rows or ranks that do not
    divide by ``sequence_parallel``.
    """
    _check_division(sequence_parallel, world_size=world_size, seq_len=seq_len)
    data_ranks = world_size // sequence_parallel
    if data_ranks > global_batch_size:
        raise UserError(_too_many(global_batch_size, world_size, sequence_parallel))

    def slots(per_device_batch_size: int) -> int:
        one_pass = per_device_batch_size * data_ranks
        return -(-global_batch_size // one_pass) * one_pass

    per_device_batch_size = min(
        range(1, max_per_device_batch_size + 1), key=lambda size: (slots(size), -size)
    )
    return Batch(
        seq_len=seq_len,
        per_device_batch_size=per_device_batch_size,
        gradient_accumulation_steps=slots(per_device_batch_size) // (per_device_batch_size * data_ranks),
        world_size=world_size,
        global_batch_size=global_batch_size,
        sequence_parallel=sequence_parallel,
    )


def _check_division(degree: int, *, world_size: int, seq_len: int) -> None:
    if world_size % degree:
        raise UserError(
            f"strategy.sequence_parallel is {degree}, and {world_size} ranks do not divide into groups of "
            f"{degree}; use a multiple of {degree} ranks"
        )
    if seq_len % degree:
        raise UserError(
            f"data.seq_len is {seq_len}, and strategy.sequence_parallel {degree} cuts each row into {degree} "
            f"equal slices; set data.seq_len to {-(-seq_len // degree) * degree}"
        )


def _too_many(global_batch_size: int, world_size: int, degree: int) -> str:
    needed = next(
        size
        for size in range(degree + 1, world_size + 1)
        if world_size % size == 0 and world_size // size <= global_batch_size
    )
    together = f" in groups of {degree}" if degree > 1 else ""
    sizes = [size * degree for size in sizes_without_idle(global_batch_size)]
    return (
        f"batch.global_batch_size is {global_batch_size}, "
        f"so at most {global_batch_size * degree} ranks{together} have work, not {world_size}; "
        f"sizes without idle slots: {_listed(sizes)}. "
        f"strategy.sequence_parallel={needed} lets {needed} ranks share each row, which trains the same; "
        "a larger batch.global_batch_size changes the training"
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
