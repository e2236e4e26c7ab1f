"""Forms of conversations: each gives the tokens and labels of the same conversation written as `messages`."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest

from gemfit.data.build.block_pipeline import make_block
from gemfit.data.jsonl.batch_parser import parse_batch, parse_lines
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.data.render.render_context import RenderContext, make_render_context
from gemfit.data.tokenize import reference_encoder
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

from .conftest import Build, WriteConversations
from .test_block import Anything, columns
from .test_key_rules import refuse

SYSTEM = {"role": "system", "content": "we rest"}
USER = {"role": "user", "content": "long day"}
REPLY = {"role": "assistant", "content": "sleep"}
MORE = {"role": "user", "content": "and night"}
LAST = {"role": "assistant", "content": "work"}
FOUR = [USER, REPLY, MORE, LAST]
TOOLS = [{"type": "function", "function": {"name": "rest", "parameters": {"z": 1.5, "a": None}}}]
CALL = {
    "role": "assistant",
    "tool_calls": [{"function": {"name": "rest", "arguments": {"b": 10**30, "a": None}}}],
}
RESULT = {"role": "tool", "content": "done"}


def by_hand(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def turns(*messages: Any, role: str = "from", text: str = "value") -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt"}
    return [
        {
            role: names.get(m["role"], m["role"]),
            text: m["content"],
            **({"weight": m["weight"]} if "weight" in m else {}),
        }
        for m in messages
    ]


def parts(text: str) -> list[dict[str, str]]:
    return [{"text": text[:3]}, {"text": text[3:]}]


ARGUMENTS = '{"b": 1000000000000000000000000000000, "a": null}'
FORMS: dict[str, tuple[object, dict[str, Any], str]] = {
    "sharegpt": ({"conversations": turns(*FOUR)}, by_hand(*FOUR), "sharegpt"),
    "sharegpt with a system key": (
        {"system": "we rest", "conversations": turns(*FOUR), "id": 7},
        by_hand(SYSTEM, *FOUR),
        "sharegpt",
    ),
    "sharegpt with a system turn": (
        {"conversations": turns(SYSTEM, *FOUR)},
        by_hand(SYSTEM, *FOUR),
        "sharegpt",
    ),
    "sharegpt with weights": (
        {"conversations": turns(USER, {**REPLY, "weight": 0}, MORE, LAST)},
        by_hand(USER, {**REPLY, "weight": 0}, MORE, LAST),
        "sharegpt",
    ),
    "sharegpt with role and content": ({"conversations": FOUR}, by_hand(*FOUR), "sharegpt"),
    "sharegpt with human and content": (
        {"conversation": turns(*FOUR, role="role", text="content")},
        by_hand(*FOUR),
        "sharegpt",
    ),
    "sharegpt as a string": ({"conversations": json.dumps(turns(*FOUR))}, by_hand(*FOUR), "sharegpt"),
    "sharegpt in messages": ({"messages": turns(*FOUR)}, by_hand(*FOUR), "sharegpt"),
    "sharegpt with tools": (
        {
            "conversations": [
                *turns(USER),
                {"from": "function_call", "value": '{"name": "rest", "arguments": ' + ARGUMENTS + "}"},
                {"from": "observation", "value": "done"},
                *turns(LAST),
            ],
            "tools": json.dumps(TOOLS),
        },
        by_hand(USER, CALL, RESULT, LAST, tools=TOOLS),
        "sharegpt",
    ),
    "alpaca": ({"instruction": "long day", "output": "sleep"}, by_hand(USER, REPLY), "alpaca"),
    "alpaca with input": (
        {"instruction": "long", "input": "day", "output": "sleep", "text": "rendered"},
        by_hand({**USER, "content": "long\nday"}, REPLY),
        "alpaca",
    ),
    "alpaca with history": (
        {
            "instruction": "and night",
            "input": "",
            "output": "work",
            "system": "we rest",
            "history": [["long day", "sleep"]],
        },
        by_hand(SYSTEM, *FOUR),
        "alpaca",
    ),
    "prompt and completion": (
        {"prompt": "long day", "completion": "sleep"},
        by_hand(USER, REPLY),
        "prompt_completion",
    ),
    "prompt of messages": (
        {"prompt": [SYSTEM, USER, REPLY, MORE], "completion": [LAST]},
        by_hand(SYSTEM, USER, {**REPLY, "weight": 0}, MORE, LAST),
        "prompt_completion",
    ),
    "gemini": (
        {
            "systemInstruction": {"role": "system", "parts": parts("we rest")},
            "contents": [
                {"role": "user", "parts": parts("long day")},
                {"role": "model", "parts": parts("sleep")},
            ],
        },
        by_hand(SYSTEM, USER, REPLY),
        "gemini",
    ),
    "gemini with tools": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "long day"}]},
                {
                    "role": "model",
                    "parts": [
                        {
                            "functionCall": {"name": "rest", "args": {"b": 10**30, "a": None}},
                            "thoughtSignature": "c2ln",
                        }
                    ],
                },
                {
                    "role": "user",
                    "parts": [{"functionResponse": {"name": "rest", "response": {"n": 10**30, "z": None}}}],
                },
                {"role": "model", "parts": [{"text": "sleep"}]},
            ],
            "tools": [{"functionDeclarations": [TOOLS[0]["function"]]}],
        },
        by_hand(USER, CALL, {**RESULT, "content": f'{{"n":{10**30},"z":null}}'}, REPLY, tools=TOOLS),
        "gemini",
    ),
    "gemini with parallel calls": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "long day"}]},
                {
                    "role": "model",
                    "parts": [
                        {"text": "sleep"},
                        {"function_call": {"id": "1", "name": "rest", "args": {}}},
                        {"function_call": {"id": "2", "name": "work"}},
                    ],
                },
                {
                    "role": "function",
                    "parts": [
                        {"function_response": {"id": "1", "name": "rest", "response": "done"}},
                        {"function_response": {"id": "2", "name": "work", "response": {}}},
                    ],
                },
                {"role": "model", "parts": [{"text": "work"}]},
            ]
        },
        by_hand(
            USER,
            {
                **REPLY,
                "tool_calls": [{"function": {"name": name, "arguments": {}}} for name in ("rest", "work")],
            },
            RESULT,
            {**RESULT, "content": "{}"},
            LAST,
        ),
        "gemini",
    ),
    "gemini with a result only": (
        {
            "contents": [
                {
                    "role": "user",
                    "parts": [{"functionResponse": {"name": "rest", "response": {"n": 10**30}}}],
                },
                {"role": "model", "parts": [{"text": "sleep"}]},
            ]
        },
        by_hand({**RESULT, "content": f'{{"n":{10**30}}}'}, REPLY),
        "gemini",
    ),
    "openai with tools": (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "rest", "arguments": ARGUMENTS}}
                    ],
                },
                {**RESULT, "tool_call_id": "c1"},
                LAST,
            ],
            "tools": TOOLS,
            "parallel_tool_calls": False,
        },
        by_hand(USER, CALL, RESULT, LAST, tools=TOOLS),
        "",
    ),
    "no tools as a string": ({"tools": "[ ]", "messages": FOUR}, by_hand(*FOUR), ""),
    "text parts of the Responses API": (
        by_hand(
            {"role": "user", "content": [{"type": "input_text", "text": "long day"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "sleep"}]},
        ),
        by_hand(USER, REPLY),
        "",
    ),
    "a system key": ({"system": "we rest", "messages": FOUR}, by_hand(SYSTEM, *FOUR), ""),
    "a system key of parts": (
        {"system": [{"type": "text", "text": "we rest"}], "messages": FOUR},
        by_hand(SYSTEM, *FOUR),
        "",
    ),
    "a copy of the system message": (
        {"system": "we rest", "messages": [SYSTEM, *FOUR]},
        by_hand(SYSTEM, *FOUR),
        "",
    ),
    "messages as a string": ({"messages": json.dumps(FOUR)}, by_hand(*FOUR), "json_string"),
    "a list alone": (FOUR, by_hand(*FOUR), "list"),
}


@pytest.fixture(scope="module")
def context(tokenizer: Any) -> RenderContext:
    return make_render_context(
        tokenizer, DataRecipe(source="x", loss_on="assistant"), reference_encoder(tokenizer)
    )


def exact(value: object) -> bytes:
    """As JSON, with integers of any size."""
    return json.dumps(value).encode()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["batch", "line"])
def test_a_form_has_the_tokens_and_labels_of_the_same_messages(
    form: str, path: str, context: RenderContext
) -> None:
    given, wanted, name = FORMS[form]
    # Half of a surrogate pair is refused, and takes the group it is in to the line path.
    bad = [b'{"messages": "\\ud800"}'] if path == "line" else []
    found, counts = make_block(b"\n".join([exact(given), *bad]), 1, "f", context, lambda rejection: None)
    hand, _ = make_block(exact(wanted), 1, "f", context, None)
    assert found.words.tolist() == hand.words.tolist()
    assert found.digests.tolist() == hand.digests.tolist()
    assert counts.forms == ({name: 1} if name else {})


ALONE = ("text parts of the Responses API", "a system key of parts", "a copy of the system message")
"""These are too rare for a path of their own."""
PLAIN = [form for form in FORMS if not re.search("tools|calls|result", form) and form not in ALONE]


@pytest.mark.parametrize("form", PLAIN)
def test_forms_without_tools_take_the_batch_path(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemfit.data.jsonl.message_columns.read_line", None)
    messages, counts = parse_batch([exact(FORMS[form][0])], 1, "f", Anything(), lambda rejection: None)
    assert messages is not None
    assert counts.lines == len(messages.last) == 1


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


def test_the_build_says_how_many_lines_of_each_form_there_were(
    write_conversations_file: WriteConversations, build: Build
) -> None:
    lines = [{"conversations": turns({**USER, "content": f"day {n}"}, REPLY)} for n in range(20)]
    path = write_conversations_file([*lines, *FORMS["alpaca"][:1], {**by_hand(USER, LAST), "weight": 0}])
    status, printed = build(path)
    assert status == 0, printed
    assert "read as messages: alpaca 1, sharegpt 20" in printed
    assert "untrained lines: 1" in printed


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
