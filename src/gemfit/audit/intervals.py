"""Intervals of shares, means and differences.

A share has Wilson's interval (1927), the difference of two shares Newcombe's (1998, method 10), which is
made of two of Wilson's: the bootstrap of 20 equal answers has no width at all, and would claim certainty
that 20 prompts cannot give. All else is a percentile bootstrap over independent units.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, sqrt
from statistics import NormalDist, fmean

import numpy as np

from gemfit.audit.suite import Figure
from gemfit.evaluate.bootstrap import interval
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
    return interval(values, confidence=confidence, resamples=resamples, seed=seed)


def share(values: Sequence[float], confidence: float) -> Interval:
    """The share of ones among zeros and ones, with Wilson's score interval."""
    count, p = len(values), fmean(values)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    # At 0 and 1 a bound is the figure itself, up to rounding.
    return Interval(value=p, low=min(p, max(0.0, middle - half)), high=max(p, min(1.0, middle + half)))


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
    """The mean of ``values`` less that of ``control``, two groups that are drawn apart."""
    rng = np.random.default_rng(seed)
    one, other = (
        rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=resamples) @ np.array(group)
        for group in (values, control)
    )
    low, high = np.quantile(
        one / len(values) - other / len(control), [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    return Interval(value=fmean(values) - fmean(control), low=float(low), high=float(high))
