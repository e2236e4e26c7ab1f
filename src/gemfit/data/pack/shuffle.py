"""Shuffle of rows: the order of an epoch as a pure function of seed and step, for any world size.

The data cursor is one integer. Up to ``MAX_SORTED_ROWS`` rows are shuffled by sorting random draws, cached
for two epochs. More rows use a keyed permutation (Feistel network) with random access, so that the first
batch of any step costs the same for a million rows as for a thousand.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gemfit.schemas.batch import Batch

EMPTY = -1
"""Row number of an idle slot, which has zero weight."""
MAX_SORTED_ROWS = 2**15
ROUNDS = 8
Index = NDArray[np.int64]


def epoch_order(seed: int, epoch: int, rows: int) -> Index:
    """The permutation of an epoch: (rows,), read-only."""
    if rows <= MAX_SORTED_ROWS:
        return _sorted_order(seed, epoch, rows)
    order = rows_at(np.arange(rows), seed=seed, epoch=epoch, rows=rows)
    order.flags.writeable = False
    return order


def rows_at(positions: Index, *, seed: int, epoch: int, rows: int) -> Index:
    """The rows at these positions of an epoch of ``rows``: an array like ``positions``."""
    if rows <= MAX_SORTED_ROWS:
        return _sorted_order(seed, epoch, rows)[positions]
    keys = _draws(seed, epoch, ROUNDS)
    half_bits = ((rows - 1).bit_length() + 1) // 2
    found = _feistel(positions.astype(np.uint64), keys, half_bits)
    # A permutation of a power of four: results beyond the last row are permuted again until they are valid.
    while (beyond := np.flatnonzero(found >= rows)).size:
        found[beyond] = _feistel(found[beyond], keys, half_bits)
    return found.astype(np.int64)


@lru_cache(maxsize=2)
def _sorted_order(seed: int, epoch: int, rows: int) -> Index:
    order = np.argsort(_draws(seed, epoch, rows), kind="stable")
    order.flags.writeable = False
    return order


def _draws(seed: int, epoch: int, count: int) -> NDArray[np.uint64]:
    """Raw 64-bit draws: numpy promises that these, unlike its shuffles, never change."""
    return np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(count)


def _feistel(positions: NDArray[np.uint64], keys: NDArray[np.uint64], half_bits: int) -> NDArray[np.uint64]:
    """A Feistel network: a permutation of the numbers of ``2 * half_bits`` bits."""
    shift, mask = np.uint64(half_bits), np.uint64(2**half_bits - 1)
    left, right = positions >> shift, positions & mask
    for key in keys:
        left, right = right, left ^ (_splitmix64(right ^ key) & mask)
    return (left << shift) | right


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64; products wrap around."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def rows_of_step(
    step: int, *, global_batch_size: int, rows_per_epoch: int, total_rows: int, seed: int
) -> NDArray[np.int64]:
    """Rows of optimizer step ``step``, counted from 0: (global_batch_size,).

    Positions from ``total_rows`` on are ``EMPTY``.
    """
    stream = np.arange(step * global_batch_size, (step + 1) * global_batch_size, dtype=np.int64)
    rows = np.full(global_batch_size, EMPTY, np.int64)
    epochs, within = np.divmod(stream, rows_per_epoch)
    for epoch in np.unique(epochs[stream < total_rows]):
        here = (epochs == epoch) & (stream < total_rows)
        rows[here] = rows_at(within[here], seed=seed, epoch=int(epoch), rows=rows_per_epoch)
    return rows


def rank_rows(step_rows: NDArray[np.int64], batch: Batch, rank: int) -> list[NDArray[np.int64]]:
    """Rows of ``rank`` per gradient accumulation step: (per_device_batch_size,), idle slots ``EMPTY``."""
    slots = np.full(batch.slots, EMPTY, np.int64)
    slots[: len(step_rows)] = step_rows
    return [slots[slot.start : slot.stop] for slot in batch.rank_slots(rank)]


def rows_digest(step_rows: NDArray[np.int64]) -> str:
    """BLAKE2b-128 of the row numbers: equal steps have equal rows in equal order."""
    return hashlib.blake2b(step_rows.astype("<i8").tobytes(), digest_size=16).hexdigest()
