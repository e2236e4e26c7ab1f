"""The rows that each optimizer step really took, as they were fed to the ranks.

What the model of a rank is given is noted where its loss is computed, laid into the slots of the whole
step, and summed over the ranks along with the loss: no message of its own, 8 bytes a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gemfit.data.pack.shuffle import EMPTY
from gemfit.schemas.batch import Batch


class Ledger:
    """Notes of one rank, from step to step."""

    def __init__(self, batch: Batch, rank: int) -> None:
        self._batch, self._rank = batch, rank
        self._fed: list[Sequence[int]] = []

    def note(self, rows: Sequence[int]) -> None:
        """The model is given these rows: (per_device_batch_size,), idle ones ``EMPTY``."""
        self._fed.append(rows)

    def take(self) -> list[float]:
        """This rank's notes since the last call, to be summed over the ranks: (slots,).

        A slot holds its row less ``EMPTY``, so an idle one and one of another rank add nothing.
        """
        slots = np.zeros(self._batch.slots)
        for slot, rows in zip(self._batch.rank_slots(self._rank), self._fed, strict=True):
            slots[slot.start : slot.stop] = np.subtract(rows, EMPTY)
        self._fed.clear()
        return slots.tolist()

    def rows(self, summed: Sequence[float], expected: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the whole step: (global_batch_size,), from what all ranks have taken.

        Raises ``RuntimeError`` where they are not ``expected``: a row was lost, or given twice.
        """
        found = np.asarray(summed, np.int64) + EMPTY
        wanted = np.full(self._batch.slots, EMPTY)
        wanted[: len(expected)] = expected
        if not np.array_equal(found, wanted):
            slot = int(np.flatnonzero(found != wanted)[0])
            raise RuntimeError(
                f"slot {slot} of this step was given row {found[slot]}, but row {wanted[slot]} is due"
            )
        return found[: self._batch.global_batch_size]
