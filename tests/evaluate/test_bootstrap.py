"""Intervals by the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gemfit.evaluate import bootstrap
from gemfit.evaluate.bootstrap import bootstrap_interval


def test_the_figure_is_the_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    found = bootstrap_interval([1.0, 30.0], [1, 10], seed=0)
    assert found.value == pytest.approx(31 / 11)
    assert found.low == pytest.approx(1.0)
    assert found.high == pytest.approx(3.0)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=400)
    found = bootstrap_interval(values, resamples=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    found = [
        bootstrap_interval(rng.exponential(1.0, 60), resamples=400, confidence=0.9, seed=n)
        for n in range(200)
    ]
    assert 0.83 <= np.mean([one.low <= 1.0 <= one.high for one in found]) <= 0.95


def test_equal_units_leave_nothing_open_and_units_without_weight_are_no_units() -> None:
    found = bootstrap_interval([2.0, 0.0, 4.0], [1, 0, 2], seed=0)
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_the_batch_size_does_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_interval(values, seed=3)
    monkeypatch.setattr(bootstrap, "BATCH_NUMBERS", 500)
    assert bootstrap_interval(values, seed=3) == whole


def test_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one unit"):
        bootstrap_interval([1.0], [0], seed=0)
