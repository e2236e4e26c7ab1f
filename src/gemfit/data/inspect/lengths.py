"""Quantiles of lengths and fill."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def quantiles(values: NDArray[Any]) -> dict[str, float]:
    """Count, mean and ``QUANTILES`` of the values; zeros without values."""
    if not len(values):
        return dict.fromkeys(["count", "mean", *QUANTILES], 0)
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    named = dict(zip(QUANTILES, (float(value) for value in found), strict=True))
    return {"count": len(values), "mean": round(float(values.mean()), 6), **named}
