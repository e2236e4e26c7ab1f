"""Keys and roles of lines that the recipe names, and its limit of a line."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gemfit.data.jsonl.batch_parser import parse_batch, parse_lines
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

from .form_lines import REPLY, SYSTEM, TOOLS, USER, by_hand, exact
from .test_block import Anything, columns
from .test_key_rules import refuse

COLUMNS: dict[str, tuple[dict[str, Any], object, object]] = {
    "question and answer": (
        {"columns": {"prompt": "question", "completion": "answer", "system": "persona"}},
        {"question": "long day", "answer": "sleep", "persona": "we rest", "prompt_id": "x"},
        by_hand(SYSTEM, USER, REPLY),
    ),
    "a list of another name": (
        {"columns": {"messages": "dialog"}, "roles": {"bot": "assistant", "patient": "user"}},
        {"dialog": [{"role": "patient", "content": "long day"}, {"role": "bot", "content": "sleep"}]},
        by_hand(USER, REPLY),
    ),
    "names that are exchanged": (
        {"columns": {"instruction": "output", "output": "instruction"}},
        {"output": "long day", "instruction": "sleep"},
        by_hand(USER, REPLY),
    ),
    "lines without the columns": (
        {"columns": {"prompt": "question", "completion": "answer"}},
        by_hand(USER, REPLY),
        by_hand(USER, REPLY),
    ),
    "ignored": (
        {"ignore_columns": ("image", "tools", "system")},
        by_hand(USER, REPLY, image="x.png", tools=TOOLS, system="we work"),
        by_hand(USER, REPLY),
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_keys_and_roles_of_the_data_are_named_in_the_recipe(kind: str) -> None:
    options, given, wanted = COLUMNS[kind]
    settings = LineSettings.of(DataRecipe(**options))
    for parse in (parse_batch, parse_lines):
        found, _ = parse([exact(given)], 1, "f", Anything(), refuse, settings)
        hand, _ = parse_lines([exact(wanted)], 1, "f", Anything(), None)
        assert found is not None
        assert columns(found) == columns(hand)


def test_a_column_has_one_meaning() -> None:
    twice: list[dict[str, Any]] = [
        {"columns": {"prompt": "a", "completion": "a"}},
        {"columns": {"prompt": "a"}, "ignore_columns": ("a",)},
    ]
    for options in twice:
        with pytest.raises(ValueError, match="`columns` names 'a'"):
            DataRecipe(**options)


def test_the_limit_of_a_line_is_a_setting() -> None:
    line = orjson.dumps(by_hand({**USER, "content": "a" * 2**20}, REPLY))
    small, large = (LineSettings.of(DataRecipe(max_line_mib=size)) for size in (1, 2))
    assert len(parse_lines([line], 1, "f", Anything(), None, large)[0].last) == 1
    with pytest.raises(UserError, match=r"longer than 1 MiB, .* raise data.max_line_mib"):
        parse_lines([line], 1, "f", Anything(), None, small)
