"""Intervals of shares, means and differences.

A share has Wilson's interval (1927), the difference of two shares Newcombe's (1998, method 10), which is
made of two of Wilson's: the bootstrap of 20 equal replies has no width at all, and would claim certainty
that 20 prompts cannot give. All else is a percentile bootstrap over independent units. All by ``scipy.stats``
but for Newcombe's formula, which it does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from statistics import fmean
from typing import Any

import numpy as np

from gemfit.audit.suite import Figure
from gemfit.evaluate.bootstrap import Floats, bootstrap_interval, percentile_interval
from gemfit.schemas.evaluation import Interval


def interval_of(figure: Figure, *, confidence: float, resamples: int, seed: int) -> Interval:
    """The figure with its interval."""
    values, control = list(figure.values.values()), list(figure.control.values())
    if not control and figure.measure.is_share and is_binary(values):
        return share(values, confidence)
    if control and is_binary([*values, *control]):
        return difference_of_shares(values, control, confidence)
    if control:
        return difference(values, control, confidence=confidence, resamples=resamples, seed=seed)
    return bootstrap_interval(values, confidence=confidence, resamples=resamples, seed=seed)


def share(values: Sequence[float], confidence: float) -> Interval:
    """The share of ones among zeros and ones, with Wilson's score interval."""
    from scipy.stats import binomtest  # noqa: PLC0415  (a second of imports)

    ones, count = round(sum(values)), len(values)
    low, high = binomtest(ones, count).proportion_ci(confidence, method="wilson")
    return Interval(value=ones / count, low=float(low), high=float(high))


def difference_of_shares(values: Sequence[float], control: Sequence[float], confidence: float) -> Interval:
    """The share of ones in ``values`` less that in ``control``, with Newcombe's interval."""
    one, other = share(values, confidence), share(control, confidence)
    figure = one.value - other.value
    return Interval(
        value=figure,
        low=figure - hypot(one.value - one.low, other.high - other.value),
        high=figure + hypot(one.high - one.value, other.value - other.low),
    )


def is_binary(values: Sequence[float]) -> bool:
    """Whether all are 0 or 1."""
    return all(value in (0.0, 1.0) for value in values)


def difference(
    values: Sequence[float], control: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """The mean of ``values`` less that of ``control``, two groups that are resampled independently."""
    low, high = percentile_interval(
        (np.array(values), np.array(control)),
        _difference_of_means,
        paired=False,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    return Interval(value=fmean(values) - fmean(control), low=low, high=high)


def _difference_of_means(values: Floats, control: Floats, axis: int) -> Any:
    return values.mean(axis) - control.mean(axis)
