"""Numbers, sizes, durations, intervals and tables as text."""

from __future__ import annotations

import math

import pytest

from gemfit.schemas.evaluation import Interval
from gemfit.summary.format import duration, interval, listed, plus_minus, size
from gemfit.summary.markdown import cell, code, render, verbatim
from gemfit.summary.text_table import TextTable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.25, "0.25 s"),
        (59.96, "60.0 s"),
        (61, "1:01"),
        (36_061, "10:01:01"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_and_lists() -> None:
    assert [size(n) for n in (None, 12, 1500, 3.2e9, 2e12)] == ["–", "12 B", "1.5 kB", "3.2 GB", "2.0 TB"]
    assert [listed(items) for items in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]


def test_an_interval_has_its_bounds_or_half_its_width() -> None:
    value = Interval(value=0.5, low=0.25, high=1.0)
    assert interval(value, ".2f") == "0.50 [0.25, 1.00]"
    assert plus_minus(value, ".0%") == "50% ± 38%"


def test_a_column_is_numeric_if_every_cell_is_a_number_or_missing() -> None:
    rows = (("a", "1 [0, 2]", "–", "x"), ("b", "–", "–", "-2"), ("c", "1.5 kB", "–", "8 x H100, 80 GiB"))
    table = TextTable("t", ("name", "one", "none", "mixed"), rows, note="n")
    assert table.is_numeric == (False, True, False, False)
    assert table.numeric_heads == ["one"]
    assert render(table).splitlines()[1:] == [
        "| --- | ---: | --- | --- |",
        "| a | 1 [0, 2] | – | x |",
        "| b | – | – | -2 |",
        "| c | 1.5 kB | – | 8 x H100, 80 GiB |",
        "",
        "n",
    ]
    assert TextTable("empty", ("a", "b"), ()).numeric_heads == []


def test_texts_cannot_break_out_of_markdown() -> None:
    assert cell("a | b\nc") == "a \\| b c"
    assert verbatim("```\nx", "text") == "````text\n```\nx\n````"
    assert code("a`b") == "``a`b``"
