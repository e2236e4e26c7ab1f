"""Intervals by the bootstrap over conversations (Efron 1979; percentile interval).

Tokens of one conversation are no independent observations, so whole conversations are drawn again. A draw
is a vector of counts; the statistic is a ratio of sums. Memory is bounded by ``CHUNK_NUMBERS``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemfit.schemas.evaluation import Interval

CHUNK_NUMBERS = 2**21
"""Counts that are held at a time."""
Floats = NDArray[np.float64]


def interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Interval:
    """``sum(values) / sum(weights)`` and its percentile interval over drawn units.

    ``values``, ``weights``: (units,), sums of each unit; without ``weights`` each counts once, so this is
    a mean. Units without weight drop out. With a single unit the interval is the figure itself; without
    any there is no figure, which is a ``ValueError``. Equal seeds draw equal units, so the interval of a
    difference is a paired one.
    """
    sums = np.asarray(values, np.float64)
    counts = np.ones_like(sums) if weights is None else np.asarray(weights, np.float64)
    sums, counts = sums[counts > 0], counts[counts > 0]
    if not len(sums):
        raise ValueError("an interval needs at least one unit of positive weight")
    tail = (1 - confidence) / 2
    low, high = np.quantile(_drawn(sums, counts, resamples, seed), [tail, 1 - tail])
    return Interval(value=float(sums.sum() / counts.sum()), low=float(low), high=float(high))


def _drawn(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """The ratio of each resample: (resamples,)."""
    rng, units = np.random.default_rng(seed), len(sums)
    pairs = np.stack([sums, counts], axis=1)
    shares, chunk = np.full(units, 1 / units), max(1, CHUNK_NUMBERS // units)
    parts = []
    for start in range(0, resamples, chunk):
        times = rng.multinomial(units, shares, size=min(chunk, resamples - start))
        parts.append(times @ pairs)
    totals = np.concatenate(parts)
    ratios: Floats = totals[:, 0] / totals[:, 1]
    return ratios
