"""Percentile bootstrap over conversations, by ``scipy.stats.bootstrap``.

Tokens of one conversation are not independent observations, so whole conversations are resampled; the
statistic is a ratio of sums. Memory is bounded by ``BATCH_NUMBERS``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemfit.core.install_hint import require_packages
from gemfit.schemas.evaluation import Interval

BATCH_NUMBERS = 2**21
"""Resampled values that are held at a time."""
Floats = NDArray[np.float64]


def bootstrap_interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Interval:
    """``sum(values) / sum(weights)`` and its percentile interval over resampled units.

    ``values``, ``weights``: (units,), sums of each unit; without ``weights`` each counts once, so this is
    a mean. Units without weight are left out. The interval of a single unit is the figure itself; without
    any there is no figure, which is a ``ValueError``. Equal seeds draw equal units, so the interval of a
    difference is a paired one.
    """
    sums = np.asarray(values, np.float64)
    counts = np.ones_like(sums) if weights is None else np.asarray(weights, np.float64)
    sums, counts = sums[counts > 0], counts[counts > 0]
    if not len(sums):
        raise ValueError("an interval needs at least one unit of positive weight")
    value = float(sums.sum() / counts.sum())
    low, high = percentile_interval(
        (sums, counts), _ratio, paired=True, resamples=resamples, confidence=confidence, seed=seed
    )
    return Interval(value=value, low=low, high=high)


def percentile_interval(
    samples: tuple[Floats, ...],
    statistic: Any,
    *,
    paired: bool,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Bounds of ``statistic(*samples, axis)``; ``paired`` samples are resampled together."""
    # scipy refuses a sample of one, which has nothing to resample: a second copy of it is the same.
    samples = tuple(np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples)
    require_packages("a bootstrap interval", ("scipy",), "train")
    from scipy.stats import bootstrap  # noqa: PLC0415  (a second of imports)

    low, high = bootstrap(
        samples,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BATCH_NUMBERS // max(map(len, samples))),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


def _ratio(sums: Floats, counts: Floats, axis: int) -> Any:
    return sums.sum(axis) / counts.sum(axis)
