"""Options from values."""

from __future__ import annotations

from pathlib import Path

from gemfit_launch.argv import to_argv


def test_each_kind_of_value_has_its_form() -> None:
    params = {"max_new_tokens": 5, "out": Path("a b"), "json": True, "seed": 0, "system": ""}
    assert to_argv(params) == [
        "--max-new-tokens",
        "5",
        "--out",
        "a b",
        "--json",
        "--seed",
        "0",
        "--system",
        "",
    ]


def test_what_is_not_given_is_left_out() -> None:
    assert to_argv({"a": None, "b": False, "c": (), "d": []}) == []


def test_several_values_repeat_their_option() -> None:
    assert to_argv({"suite": ("crisis", "own")}) == ["--suite", "crisis", "--suite", "own"]


def test_a_value_that_begins_with_a_dash_stays_with_its_option() -> None:
    assert to_argv({"message": "-x", "seed": -1}) == ["--message=-x", "--seed=-1"]
