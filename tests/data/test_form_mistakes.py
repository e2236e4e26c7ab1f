"""Mistakes in forms of data: errors with the names that the line has."""

from __future__ import annotations

from typing import Any

import pytest

from gemfit.data.jsonl.batch_parser import parse_lines
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

from .form_lines import FOUR, REPLY, SYSTEM, USER, by_hand, exact, turns
from .test_block import Anything

CALLED = {"function": {"name": "f", "arguments": {}}}

MISTAKES: dict[str, tuple[dict[str, Any], object, str]] = {
    "a column that is not there": (
        {"columns": {"prompt": "question", "completion": "answer"}},
        {"question": "long day", "anwser": "sleep"},
        "there is no 'answer', which data.columns reads as `completion`; write null",
    ),
    "a system column that is not there": (
        {"columns": {"system": "persna"}},
        by_hand(USER, REPLY, persona="we rest"),
        "there is no 'persna', which data.columns reads as `system`",
    ),
    "a column twice": (
        {"columns": {"messages": "dialog"}},
        by_hand(USER, REPLY, dialog=FOUR),
        "has 'dialog' and 'messages', which are the same by data.columns",
    ),
    "an unknown role": (
        {},
        by_hand({"role": "bot", "content": "x"}),
        r"messages\[0\].role is 'bot', expected .*; or say which in data.roles: {bot: …}",
    ),
    "a role in from": (
        {},
        {"conversations": [*turns(USER), {"from": "bot", "value": "x"}]},
        r"conversations\[1\].from is 'bot'",
    ),
    "a value that is no text": (
        {},
        {"conversations": [{"from": "gpt", "value": 3}]},
        r"conversations\[0\].value is 3",
    ),
    "an empty value": (
        {},
        {"system": "x", "conversations": turns(USER, {**REPLY, "content": " "})},
        r"conversations\[1\].value is empty, and would train the model to say nothing",
    ),
    "an empty output": ({}, {"instruction": "x", "output": ""}, "output is empty"),
    "no output": ({}, {"instruction": "x", "output": None}, "`output` is null"),
    "a broken history": (
        {},
        {"instruction": "x", "output": "y", "history": [["a"]]},
        r"`history\[0\]` is a list, expected a pair",
    ),
    "a history that is no list": (
        {},
        {"instruction": "x", "output": "y", "history": 3.5},
        "`history` is 3.5, expected a list of questions",
    ),
    "a history that is no JSON": (
        {},
        {"instruction": "x", "output": "y", "history": "a, b"},
        "`history`: 'a, b' is not JSON",
    ),
    "a completion that is no text": (
        {},
        {"prompt": "x", "completion": 3},
        "`completion` is 3, expected text",
    ),
    "a part that is no text": (
        {},
        {"contents": [{"role": "user", "parts": [{"inlineData": {"data": "x"}}]}]},
        r"contents\[0\].parts\[0\] has the key 'inlineData'; only text",
    ),
    "text behind a call": (
        {},
        {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f"}}, {"text": "x"}]}]},
        r"contents\[0\] has text behind a function call",
    ),
    "a call of another kind": (
        {},
        {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f", "arguments": {}}}]}]},
        r"contents\[0\].parts: a function call has the key 'arguments', expected name, args, id",
    ),
    "a result with text": (
        {},
        {
            "contents": [
                {"role": "user", "parts": [{"functionResponse": {"name": "f"}}, {"text": "x"}]},
            ]
        },
        r"contents\[0\] has function responses and other parts",
    ),
    "no parts": ({}, {"contents": [{"role": "user"}]}, r"contents\[0\] is an object without `parts`"),
    "two roles": (
        {},
        by_hand({"role": "user", "from": "human", "content": "x"}),
        r"messages\[0\] has the key 'from'; there is a `role`",
    ),
    "two systems": ({}, by_hand(SYSTEM, USER, system="we work"), "has `system` and a system message"),
    "a list of conversations": (
        {},
        [by_hand(USER), by_hand(USER)],
        "is a list of 2 objects; write one .*jq -c",
    ),
    "splits in one object": (
        {},
        {"train": [by_hand(*FOUR), by_hand(USER)], "test": []},
        "is one object with 2 conversations under 'train'; .*jq -c",
    ),
    "rows under a key": ({}, {"version": 1, "data": [by_hand(USER)]}, "is one object with 1 conv.*'data'"),
    "preferences": (
        {},
        {"prompt": "x", "chosen": "a", "rejected": "b"},
        "has the key 'chosen'; preferences cannot",
    ),
    "arguments of Llama": (
        {},
        by_hand(USER, {"role": "assistant", "tool_calls": [{"name": "f", "parameters": {"a": 1}}]}),
        r".*tool_calls\[0\] has the key 'parameters', which would be lost",
    ),
    "a call with its result": (
        {},
        by_hand(
            USER, {"role": "assistant", "tool_calls": [{"function": {**CALLED["function"], "output": "x"}}]}
        ),
        r".*tool_calls\[0\] has the key 'output', which would be lost",
    ),
    "calls of two forms in one message": (
        {},
        by_hand(
            USER, {"role": "function_call", "content": '{"name": "f", "arguments": {}}', "tool_calls": 5}
        ),
        r"messages\[1\] has calls in its content and as `tool_calls`",
    ),
    "a call with two names": (
        {},
        by_hand(USER, {"role": "assistant", "tool_calls": [{"name": "g", **CALLED}]}),
        r".*tool_calls\[0\] has the key 'name', which would be lost",
    ),
    "a result of another id": (
        {},
        by_hand(
            USER,
            {"role": "assistant", "tool_calls": [{"id": 0, **CALLED}]},
            {"role": "tool", "tool_call_id": 1, "content": "x"},
        ),
        r".*tool_call_id is 1, but the next call that waits for a result is 0",
    ),
    "a result of another name": (
        {},
        by_hand(
            USER,
            {"role": "assistant", "tool_calls": [{"name": name, "arguments": {}} for name in "fg"]},
            {"role": "tool", "name": "g", "content": "x"},
            {"role": "tool", "name": "f", "content": "x"},
        ),
        r".*messages\[2\].name is 'g', but the next call that waits for a result is 'f'",
    ),
    "a part without a type": (
        {},
        by_hand({"role": "user", "content": [{"text": "x"}]}, REPLY),
        r".*content\[0\] has no type; write",
    ),
    "an instruction that is null": (
        {},
        {"instruction": None, "input": "x", "output": "y"},
        "`instruction` is null or missing, expected text",
    ),
    "a completion that is null": (
        {},
        {"prompt": "x", "completion": None},
        "`completion` is null or missing, expected text or a list",
    ),
    "contents that are no list": ({}, {"contents": '{"role": "user"}'}, "`contents` is an object, expected"),
    "text alone": (
        {},
        {"text": "x"},
        "there is no `messages`, only 'text'; write .*data.columns: {prompt: question",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_in_a_form_is_named_as_it_is_written(kind: str) -> None:
    options, given, reason = MISTAKES[kind]
    with pytest.raises(UserError, match=f"^f:1: {reason}"):
        parse_lines([exact(given)], 1, "f", Anything(), None, LineSettings.of(DataRecipe(**options)))


def test_an_opening_bracket_alone_says_that_the_file_is_one_list() -> None:
    with pytest.raises(UserError, match=r"^f:1: is only '\['.*one conversation per line: jq -c '\.\[\]'"):
        parse_lines([b"["], 1, "f", Anything(), None)
