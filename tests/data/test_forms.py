"""Forms of conversations: each gives the tokens and labels of the same conversation written as `messages`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from gemfit.data.build.block_pipeline import make_block
from gemfit.data.jsonl.batch_parser import parse_batch
from gemfit.data.render.render_context import RenderContext, make_render_context
from gemfit.data.tokenize import reference_encoder
from gemfit.schemas.recipe_data import DataRecipe

from .conftest import Build, WriteConversations
from .form_lines import (
    CALL,
    FOUR,
    LAST,
    MORE,
    REPLY,
    RESULT,
    SYSTEM,
    TOOLS,
    USER,
    by_hand,
    exact,
    parts,
    turns,
)
from .test_block import Anything

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
                        {
                            "id": "c1",
                            "type": "function",
                            "name": "rest",
                            "function": {"name": "rest", "arguments": ARGUMENTS},
                        }
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


def test_the_build_says_how_many_lines_of_each_form_there_were(
    write_conversations_file: WriteConversations, build: Build
) -> None:
    lines = [{"conversations": turns({**USER, "content": f"day {n}"}, REPLY)} for n in range(20)]
    path = write_conversations_file([*lines, *FORMS["alpaca"][:1], {**by_hand(USER, LAST), "weight": 0}])
    status, printed = build(path)
    assert status == 0, printed
    assert "read as messages: alpaca 1, sharegpt 20" in printed
    assert "untrained lines: 1" in printed
