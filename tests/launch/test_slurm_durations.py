"""Durations in every form that Slurm writes or takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.errors import UserError
from gemfit_launch.slurm.durations import asked_limit, seconds


@pytest.mark.parametrize(
    ("duration", "number"),
    [
        ("0", 0),
        ("10", 600),
        ("10:30", 630),
        ("90:00", 5400),
        ("1:00:00", 3600),
        ("00:01:30", 90),
        ("1-0", 86_400),
        ("1-02", 93_600),
        ("1-02:03", 93_780),
        ("1-02:03:04", 93_784),
        ("2-01:00:00", 2 * 86_400 + 3600),
    ],
)
def test_every_form_of_a_duration_is_read(duration: str, number: int) -> None:
    assert seconds(duration) == number


@pytest.mark.parametrize(
    "text",
    ["UNLIMITED", "INFINITE", "NONE", "n/a", "INVALID", "", "soon", "1-", "-5", "1:2:3:4", "1-1-1", "\u0661"],
)
def test_no_limit_and_no_duration_have_no_seconds(text: str) -> None:
    assert seconds(text) is None


@pytest.mark.parametrize(
    "time", ["0", "00", "0:00", "00:00:00", "0-0", "0-00:00:00", "-1", "UNLIMITED", "infinite", "Unlimited"]
)
def test_a_limit_of_zero_and_the_words_for_none_are_no_limit(time: str) -> None:
    assert asked_limit(time) is None


@pytest.mark.parametrize("time", ["", "30s", "2h", "1d", "1-", "1:2:3:4", "NONE", "1e3", "60.0", "+60", "-2"])
def test_a_limit_in_another_notation_is_refused_with_an_example(time: str) -> None:
    with pytest.raises(UserError, match=r"is not a time in the format of sbatch, such as 1-00:00:00"):
        asked_limit(time)
    assert asked_limit("90") == 5400


@given(days=st.integers(0, 99), hours=st.integers(0, 23), minutes=st.integers(0, 59), rest=st.integers(0, 59))
def test_a_whole_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, rest: int) -> None:
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    assert seconds(f"{days}-{hours:02}:{minutes:02}:{rest:02}") == expected
