"""Content parts, tools, weights and other message keys: rendered as text, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from gemfit.data.jsonl.conversation import Conversation, Message, parse_conversation
from gemfit.data.render.render_context import make_render_context
from gemfit.data.tokenize import reference_encoder
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

USER = {"role": "user", "content": "Is it raining?"}
SYSTEM = {"role": "system", "content": "Be kind."}
REPLY = {"role": "assistant", "content": "Yes."}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call(name: str, arguments: object, **more: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calls(*given: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "tool_calls": list(given), **more}


def result(content: str, **more: object) -> dict[str, object]:
    return {"role": "tool", "content": content, **more}


def parse(*messages: object, **more: object) -> Conversation:
    return parse_conversation({"messages": list(messages), **more}, "f:1")


def test_text_parts_are_joined_without_separator() -> None:
    parts = [{"type": "text", "text": "Is it"}, {"type": "text", "text": " raining?", "image": None}]
    assert parse({"role": "user", "content": parts}) == parse(USER)


def test_the_developer_role_is_an_alias_of_system() -> None:
    assert parse({**SYSTEM, "role": "developer"}, USER) == parse(SYSTEM, USER)
    with pytest.raises(UserError, match=r"messages\[1\] is a system message"):
        parse(USER, {**SYSTEM, "role": "developer"})


def test_tool_calls_and_definitions_are_compact_json_after_the_text() -> None:
    conversation = parse(
        SYSTEM,
        USER,
        calls(call("weather", '{"place": "here"}', id="1"), call("time", {}, id="2"), content="I look."),
        result("rain", tool_call_id="1"),
        result("noon", tool_call_id="2", name="time"),
        REPLY,
        tools=[WEATHER],
    )
    roles = " ".join(message.role for message in conversation.messages)
    assert roles == "system user assistant tool tool assistant"
    assert conversation.messages[0].content == "Be kind.\n" + json.dumps([WEATHER], separators=(",", ":"))
    assert conversation.messages[2].content == (
        'I look.\n[{"name":"weather","arguments":{"place":"here"}},{"name":"time","arguments":{}}]'
    )
    assert conversation.tools == "tools"


def test_definitions_without_system_text_add_a_system_message_and_weights_stay_aligned() -> None:
    conversation = parse(USER, {**REPLY, "weight": 0}, USER, REPLY, tools=[WEATHER])
    assert conversation.messages[0] == Message("system", orjson.dumps([WEATHER]).decode())
    assert conversation.untrained == {2}


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}], ids=["no", "null", "empty"])
def test_calls_need_no_content(content: dict[str, object]) -> None:
    conversation = parse(USER, calls(call("weather", {}), **content))
    assert conversation.messages[1].content == '[{"name":"weather","arguments":{}}]'


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([USER, result("rain")], "the role tool"),
        ([USER, calls(call("weather", {}))], "tool_calls"),
        ([USER, REPLY, {"tools": [WEATHER]}], "tools"),
    ],
)
def test_a_chat_template_gets_no_tools(tokenizer: Any, messages: list[Any], what: str) -> None:
    more = messages.pop() if "tools" in messages[-1] else {}
    conversation = parse(*messages, **more)
    data = DataRecipe(source="x", format="chat_template")
    rendering = make_render_context(tokenizer, data, reference_encoder(tokenizer))
    with pytest.raises(UserError, match=rf"^f:1: has {what}, .* use data.format: role_markers"):
        rendering.check(conversation)


def part(**values: object) -> dict[str, object]:
    return {"role": "user", "content": [values]}


REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "image": (
        [part(type="image_url", image_url={"url": "x"})],
        {},
        r"content\[0\] is a part of type 'image_url'; only text",
    ),
    "audio": ([part(type="input_audio")], {}, r"part of type 'input_audio'; .* remove the part"),
    "image next to text": (
        [part(type="text", text="x", image="x.png")],
        {},
        r"content\[0\] has the key 'image'",
    ),
    "text missing": ([part(type="text")], {}, r"content\[0\].text is null or missing"),
    "string part": ([{"role": "user", "content": ["x"]}], {}, r"content\[0\] is 'x'; write {\"type\""),
    "no parts": ([{"role": "user", "content": []}], {}, "content is an empty list"),
    "NUL in parts": ([part(type="text", text="a\0")], {}, "NUL character at position 1"),
    "call of nothing": (
        [USER, calls({"type": "function"})],
        {},
        r"tool_calls\[0\] has no function name; write",
    ),
    "other call": ([USER, calls({"type": "retrieval"})], {}, "not a function call"),
    "bad arguments": ([USER, calls(call("f", "{"))], {}, r"tool_calls\[0\]: its arguments: '{' is not JSON"),
    "no object": ([USER, calls(call("f", "3"))], {}, "its arguments are 3, expected an object"),
    "user calls": ([{**USER, "tool_calls": [call("f", {})]}], {}, "only assistants call tools"),
    "wrong order": (
        [USER, calls(call("f", {}, id="1"), call("g", {}, id="2")), result("x", tool_call_id="2")],
        {},
        r"messages\[2\].tool_call_id is '2', but the next call that waits for a result is '1'",
    ),
    "no call": ([USER, result("x", tool_call_id="1")], {}, "waits for a result is null or missing"),
    "tools no list": ([USER, REPLY], {"tools": "weather"}, r"`tools`: 'weather' is not JSON"),
    "tool without name": (
        [USER, REPLY],
        {"tools": [{}]},
        r"`tools`\[0\] is an object without a function's name",
    ),
    "functions": (
        [USER, REPLY],
        {"functions": [{"name": "f"}]},
        "has the key 'functions' next to `messages`; write \"tools\"",
    ),
    "function_call": ([USER, {**REPLY, "function_call": {"name": "f"}}], {}, "write it as `tool_calls`"),
    "half a weight": (
        [USER, {**REPLY, "weight": 0.5}],
        {},
        r"weight is 0.5, expected 0 \(not trained\) or 1",
    ),
    "weight of a user": ([{**USER, "weight": 1}, REPLY], {}, "weight is 1 in a message of role 'user'"),
    "misspelt weight": ([USER, {**REPLY, "wieght": 0}], {}, "has the key 'wieght'; did you mean 'weight'"),
    "train": ([USER, {**REPLY, "train": False}], {}, "has the key 'train'; write `weight` 0 or 1"),
    "reasoning": ([USER, {**REPLY, "reasoning_content": "Hm."}], {}, "key 'reasoning_content'; put"),
    "images": ([{**USER, "images": ["x.png"]}], {}, "key 'images'; only text can be trained"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_messages_are_refused(kind: str) -> None:
    messages, more, reason = REFUSED[kind]
    with pytest.raises(UserError, match=rf"^f:1: .*{reason}"):
        parse(*messages, **more)


def test_keys_without_effect_are_ignored() -> None:
    nothing: dict[str, object] = {"images": [], "tool_calls": None, "weight": None, "height": ""}
    named: dict[str, object] = {**USER, "name": "Ada", "id": 3, **nothing}
    assert parse(named, {**REPLY, "weight": 1, "refusal": None}) == parse(USER, REPLY)
