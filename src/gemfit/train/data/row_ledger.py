"""Row ledger: which rows each optimizer step was trained on, as they were fed to the ranks.

Each rank records the rows whose loss it computes, in the slots of the whole step; they are summed over the
ranks together with the loss: no communication of its own, 8 bytes per row. Ranks that share their rows record
the same ones, so the sums are those rows times the number of ranks that share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from gemfit.data.pack.shuffle import EMPTY
from gemfit.schemas.batch import Batch


class RowLedger:
    """The rows fed to one rank since the last step."""

    def __init__(self, batch: Batch, rank: int) -> None:
        self._batch, self._rank = batch, rank
        self._fed: list[Sequence[int]] = []
        self._losses: list[SupportsFloat] = []

    def add(self, rows: Sequence[int], loss: SupportsFloat) -> None:
        """Record rows fed to the model: (per_device_batch_size,), ``EMPTY`` where a slot is idle; their loss.

        The loss may be a tensor of a GPU: it is read only by ``not_finite``.
        """
        self._fed.append(rows)
        self._losses.append(loss)

    def not_finite(self) -> list[int]:
        """Rows since the last ``take`` in whose batch the loss of this rank is not finite."""
        fed = zip(self._fed, self._losses, strict=True)
        return [row for rows, loss in fed if not math.isfinite(float(loss)) for row in rows]

    def take(self) -> list[float]:
        """The rows of this rank since the last call, to be summed over the ranks: (slots,).

        A slot holds its row minus ``EMPTY``, so idle slots and those of other ranks add zero.
        """
        slots = np.zeros(self._batch.slots)
        for slot, rows in zip(self._batch.rank_slots(self._rank), self._fed, strict=True):
            slots[slot.start : slot.stop] = np.subtract(rows, EMPTY)
        self._fed.clear()
        self._losses.clear()
        return slots.tolist()

    def rows(self, summed: Sequence[float], expected: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the whole step: (global_batch_size,), from the sums over all ranks.

        Raises ``RuntimeError`` where they are not ``expected``: a row was lost or repeated, or ranks that
        share a row read different ones.
        """
        # Exact: a sum of equal integers.
        found = np.asarray(summed) / self._batch.sequence_parallel + EMPTY
        wanted = np.full(self._batch.slots, EMPTY)
        wanted[: len(expected)] = expected
        if not np.array_equal(found, wanted):
            slot = int(np.flatnonzero(found != wanted)[0])
            raise RuntimeError(
                f"slot {slot} of this step was trained on row {found[slot]:.15g}, not on row {wanted[slot]}"
            )
        return wanted[: self._batch.global_batch_size]
