"""Which row is trained when: a pure function of seed and step, whatever the world size.

The state of the data is one integer. A permutation costs 8 bytes a row and is kept for two epochs.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gemfit.batch import Batch

EMPTY = -1
"""Stands for a row of zero weight."""


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """The permutation of an epoch: (rows,), read-only.

    It sorts raw 64-bit draws: numpy promises that these, unlike its shuffles, never change.
    """
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(rows)
    order = np.argsort(draws, kind="stable")
    order.flags.writeable = False
    return order


def rows_of_step(
    step: int, *, effective: int, rows_per_epoch: int, total_rows: int, seed: int
) -> NDArray[np.int64]:
    """Pack rows of optimizer step ``step``, which counts from 0: (effective,).

    Places of the endless stream from ``total_rows`` on are ``EMPTY``.
    """
    stream = np.arange(step * effective, (step + 1) * effective, dtype=np.int64)
    rows = np.full(effective, EMPTY, np.int64)
    epochs, within = np.divmod(stream, rows_per_epoch)
    for epoch in np.unique(epochs[stream < total_rows]):
        here = (epochs == epoch) & (stream < total_rows)
        rows[here] = epoch_order(seed, int(epoch), rows_per_epoch)[within[here]]
    return rows


def rank_rows(step_rows: NDArray[np.int64], batch: Batch, rank: int) -> list[NDArray[np.int64]]:
    """What ``rank`` takes of a step, for each micro-step: (per_device,), idle slots ``EMPTY``."""
    slots = np.full(batch.slots, EMPTY, np.int64)
    slots[: len(step_rows)] = step_rows
    return [slots[slot.start : slot.stop] for slot in batch.rank_slots(rank)]


def rows_digest(step_rows: NDArray[np.int64]) -> str:
    """BLAKE2b-128 of the row numbers: equal steps took equal rows in equal places."""
    return hashlib.blake2b(step_rows.astype("<i8").tobytes(), digest_size=16).hexdigest()
