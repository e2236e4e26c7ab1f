"""Durations in every form that Slurm writes or takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit_launch.slurm.durations import seconds


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
    ["UNLIMITED", "INFINITE", "NONE", "n/a", "INVALID", "", "soon", "1-", "-5", "1:2:3:4", "1-1-1"],
)
def test_no_limit_and_no_duration_have_no_seconds(text: str) -> None:
    assert seconds(text) is None


@given(days=st.integers(0, 99), hours=st.integers(0, 23), minutes=st.integers(0, 59), rest=st.integers(0, 59))
def test_a_whole_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, rest: int) -> None:
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    assert seconds(f"{days}-{hours:02}:{minutes:02}:{rest:02}") == expected
