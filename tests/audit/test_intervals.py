"""Intervals: Wilson's for shares, Newcombe's for their differences, the bootstrap for the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.audit.intervals import difference, difference_of_shares, interval_of, share
from gemfit.audit.suite import Figure, Measure
from gemfit.schemas.evaluation import Interval

ANSWERS = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)


def figure(values: list[float], control: list[float] | None = None, *, is_share: bool = True) -> Figure:
    measure = Measure(name="x", better="lower", says="…", is_share=is_share)
    named = {str(number): value for number, value in enumerate(values)}
    return Figure(measure=measure, values=named, control={str(n): v for n, v in enumerate(control or [])})


def found(figure: Figure) -> Interval:
    return interval_of(figure, confidence=0.95, resamples=200, seed=0)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    found = share([1.0] * 8 + [0.0] * 2, 0.95)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_newcombes_interval_is_that_of_his_paper() -> None:
    # Newcombe 1998, table II, case (a), method 10: 56/70 against 48/80.
    found = difference_of_shares([1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32, 0.95)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_twenty_equal_answers_leave_room_for_another() -> None:
    assert share([0.0] * 20, 0.95).high == pytest.approx(0.161, abs=1e-3)
    assert share([1.0] * 20, 0.95).low == pytest.approx(0.839, abs=1e-3)


@given(ANSWERS)
def test_a_share_lies_in_its_interval_inside_0_and_1(values: list[float]) -> None:
    found = share(values, 0.95)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(ANSWERS, ANSWERS)
def test_a_difference_of_shares_changes_its_sign_with_the_sides(one: list[float], other: list[float]) -> None:
    there, back = difference_of_shares(one, other, 0.95), difference_of_shares(other, one, 0.95)
    assert there.low <= there.value <= there.high
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.lists(st.floats(-5, 5), min_size=2, max_size=20)
)
def test_a_difference_of_means_is_bounded_by_what_was_seen(one: list[float], other: list[float]) -> None:
    found = difference(one, other, confidence=0.95, resamples=100, seed=0)
    slack = 1e-9
    assert min(one) - max(other) - slack <= found.low <= found.high <= max(one) - min(other) + slack


def test_each_kind_of_figure_gets_the_interval_that_suits_it() -> None:
    assert found(figure([0.0] * 20)) == share([0.0] * 20, 0.95)
    shares = found(figure([1.0, 0.0], [0.0, 0.0], is_share=False))
    assert shares == difference_of_shares([1.0, 0.0], [0.0, 0.0], 0.95)
    apart = found(figure([3.0, 3.0], [1.0, 1.0], is_share=False))
    assert (apart.value, apart.low, apart.high) == (2.0, 2.0, 2.0)
    plain = found(figure([0.0, 0.0, 0.0], is_share=False))
    assert (plain.low, plain.high) == (0.0, 0.0)
