"""Keys next to the messages: understood or refused by name if they decide what is trained, else ignored."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.jsonl.batch_parser import parse_batch, parse_lines, read_block
from gemfit.data.jsonl.line_parser import Rejection
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

from .test_block import Anything, columns

MESSAGES = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": "Yes."}]

REFUSED: dict[str, tuple[object, str]] = {
    "images": (["/data/cat.jpg"], "only text"),
    "image": ("cat.jpg", "only text"),
    "image_url": ({"url": "x"}, "only text"),
    "inputImages": (["x"], "only text"),
    "videos": (["x.mp4"], "only text"),
    "audio": ({"array": [0.1]}, "only text"),
    "audios": (["x.wav"], "only text"),
    "pixel_values": ([[0.1]], "only text"),
    "chosen": ("No.", "preferences cannot"),
    "rejected": ([{"role": "assistant", "content": "No."}], "preferences cannot"),
    "non_preferred_output": ([{"role": "assistant", "content": "No."}], "preferences cannot"),
    "label": (True, "preferences cannot"),
    "kto_tag": (False, "preferences cannot"),
    "loss_mask": ([0, 1], "write `weight`"),
    "train_on_input": (True, "write `weight`"),
    "trainable": (0, "write `weight`"),
    "loss": (False, "write `weight`"),
    "masks": ([1], "write `weight`"),
    "mask": ("User", "write `weight`"),
    "sample_weight": (0.3, "write `weight`"),
    "weights": ([0, 1], "write `weight`"),
    "wieght": (0, "did you mean 'weight'"),
    "trian": (False, "did you mean 'train'"),
    "labels": ([-100, 3], "tokens are made from messages"),
    "input_ids": ([1, 2], "tokens are made from messages"),
    "functions": ([{"name": "f"}], 'write "tools"'),
    "function_call": ({"name": "f"}, "call it `tools`"),
    "available_tools": ('[{"name": "f"}]', "call it `tools`"),
    "tool": ([{"name": "f"}], "call it `tools`"),
    "tolls": ([{"name": "f"}], "did you mean 'tools'"),
    "system_prompt": ("Be kind.", "call it `system`"),
    "systemInstruction": ({"parts": [{"text": "Be kind."}]}, "call it `system`"),
    "sytem": ("Be kind.", "did you mean 'system'"),
    "prompt": ("Is it snowing?", "its text is in no message"),
    "completion": ("No.", "its text is in no message"),
    "history": ([["a", "b"]], "its text is in no message"),
    "instruction": ("Answer.", "its text is in no message"),
    "context": ("A long text.", "its text is in no message"),
    "documents": ([{"text": "A long text."}], "its text is in no message"),
    "conversations": ([{"from": "human", "value": "Is it snowing?"}], "the line has its conversation twice"),
    "message": ("Is it snowing?", "the line has its conversation twice"),
    "reasoning_content": ("Hm.", "put what is to be trained into content"),
    "reasoning_details": ([{"text": "Hm."}], "put what is to be trained into content"),
    "thinking_blocks": ([{"thinking": "Hm."}], "put what is to be trained into content"),
    "instructions": ("Be kind.", "its text is in no message"),
    "attachments": ([{"content": "A long text."}], "its text is in no message"),
    "preamble": ("Be kind.", "call it `system`"),
    "is_train": ("False", "write `weight`"),
    "is_trained": ("0", "write `weight`"),
    "desirable": ("true", "preferences cannot"),
    "skip": (True, "write `weight`"),
    "exclude": ("True", "write `weight`"),
    "should_ignore": (1, "write `weight`"),
    "ignored": ([0, 1], "write `weight`"),
    "thinking": ("on and on", "put what is to be trained into content"),
    "token_ids": ("[1, 2]", "tokens are made from messages"),
    "chat_template": ("{% for %}", "data.format chooses"),
    "chat_template_kwargs": ({"enable_thinking": True}, "data.format chooses"),
}
REFUSED_IN_MESSAGES: dict[str, tuple[object, str]] = {
    "tools": ([{"name": "f"}], "write them as `tools` next to the messages"),
    "functions": ('[{"name": "f"}]', "write them as `tools` next to the messages"),
    "function_calls": ("f(a=1)", "write it as `tool_calls`"),
    "text": ("No.", "there is a `content`"),
    "documents": ([{"text": "A long text."}], "put what is to be trained into content"),
    "attachments": ([{"content": "A long text."}], "put what is to be trained into content"),
    "reasoning_details": ([{"text": "Hm."}], "put what is to be trained into content"),
    "is_trained": ("False", "write `weight`"),
    "skip": (True, "write `weight`"),
    "value": ("No.", "there is a `content`"),
    "parts": ([{"text": "No."}], "there is a `content`"),
    "prefix": (True, "put what is to be trained into content"),
    "reasoning_content": ("Hm.", "put what is to be trained into content"),
}
IGNORED_IN_MESSAGES: dict[str, object] = {
    "name": "Ann",
    "text": "Yes.",
    "parts": [{"text": "Yes."}],
    "reasoning_content": "Yes",
    "reasoning": "off",
    "prefix": False,
    "skip": False,
    "tool_names": ["f"],
    "tool_choice": "auto",
    "documents": ["a.pdf"],
    "functions": [],
}
HARMLESS: dict[str, object] = {
    "id": 3,
    "source": ["x"],
    "lang": "en",
    "scores": {"fluency": 0.3, "messages": 2},
    "score_chosen": 3.5,
    "model": "gpt",
    "label": "joy",
    "labels": ["joy", "rain"],
    "tools": None,
    "functions": [],
    "images": [],
    "image": None,
    "has_image": False,
    "num_images": 0,
    "loss_mask": None,
    "weight": 1,
    "train": True,
    "height": 180,
    "split": "train",
    "training_run": "a",
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "tool_names": ["f"],
    "prompt": "Is it raining?",
    "completion": "Yes.",
    "conversations": [{"from": "human", "value": "Is it raining?"}],
    "system": "",
    "system_id": 4,
    "prompt_id": "abc",
    "input_tokens": 12,
    "created": "2026-01-01",
    "text": "<user>Is it raining?",
    "question": "rain?",
    "turns": 2,
    "template": "chatml",
    "reasoning_effort": "low",
    "reasoning": "off",
    "thinking": "enabled",
    "skip": False,
    "excluded": "0",
    "ignore": 0,
    "skip_prompt_formatting": True,
    "persona": "A gardener in Bern.",
    "metadata": {"images": ["x"], "train": False},
}


def refuse(rejection: Rejection) -> None:
    """No line may be rejected."""
    pytest.fail(rejection.reason)


def line_of(key: str, value: object) -> bytes:
    return orjson.dumps({"messages": MESSAGES, key: value})


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_decides_what_is_trained_is_refused_by_name(key: str) -> None:
    value, reason = REFUSED[key]
    found: list[Rejection] = []
    read_block(line_of(key, value), 1, "f", Anything(), found.append)
    assert len(found) == 1
    assert found[0].reason.startswith(f"has the key {key!r} next to `messages`; {reason}")
    ignoring = LineSettings.of(DataRecipe(ignore_columns=(key,)))
    assert len(read_block(line_of(key, value), 1, "f", Anything(), None, ignoring)[0].last) == 1


def with_key(key: str, value: object) -> bytes:
    return orjson.dumps({"messages": [MESSAGES[0], {**MESSAGES[1], key: value}]})


@pytest.mark.parametrize("key", REFUSED_IN_MESSAGES)
def test_a_key_of_a_message_that_would_be_lost_is_refused_by_name(key: str) -> None:
    value, reason = REFUSED_IN_MESSAGES[key]
    with pytest.raises(UserError, match=rf"messages\[1\] has the key '{key}'; {reason}"):
        read_block(with_key(key, value), 1, "f", Anything(), None)


@pytest.mark.parametrize("key", IGNORED_IN_MESSAGES)
def test_other_keys_of_a_message_are_ignored(key: str) -> None:
    line = with_key(key, IGNORED_IN_MESSAGES[key])
    assert columns(read_block(line, 1, "f", Anything(), None)[0]) == columns(
        read_block(orjson.dumps({"messages": MESSAGES}), 1, "f", Anything(), None)[0]
    )


@pytest.mark.parametrize("key", HARMLESS)
def test_metadata_is_ignored_on_the_batch_path(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemfit.data.jsonl.message_columns.read_line", None)
    found, _ = parse_batch([line_of(key, HARMLESS[key])], 1, "f", Anything(), refuse)
    wanted, _ = parse_batch([orjson.dumps({"messages": MESSAGES})], 1, "f", Anything(), refuse)
    assert found is not None
    assert wanted is not None
    assert columns(found) == columns(wanted)


@pytest.mark.parametrize("key", ["weight", "train"])
@pytest.mark.parametrize("value", [0, False, 0.0])
def test_a_line_of_no_weight_is_left_out_and_counted(key: str, value: object) -> None:
    lines = [line_of(key, value), line_of("id", 1), b"", line_of(key, 1)]
    for parse in (parse_batch, parse_lines):
        messages, counts = parse(lines, 1, "f", Anything(), refuse)
        assert messages is not None
        assert messages.lines.tolist() == [2, 4]
        assert (counts.lines, counts.blank, counts.untrained, counts.rejected) == (4, 1, 1, 0)


@pytest.mark.parametrize("value", [0.5, 2, "0", [0]])
def test_a_line_of_another_weight_is_refused(value: object) -> None:
    with pytest.raises(
        UserError, match=r"^f:1: weight is .*, expected 0 \(not trained\) or 1; .* data.sources"
    ):
        parse_lines([line_of("weight", value)], 1, "f", Anything(), None)


@pytest.mark.parametrize("content", ["", " ", "\n\u2003"])
def test_a_reply_without_text_is_refused_unless_it_is_not_trained(content: str) -> None:
    def line(**more: object) -> bytes:
        return orjson.dumps({"messages": [MESSAGES[0], {"role": "assistant", "content": content, **more}]})

    found: list[Rejection] = []
    messages, _ = read_block(b"\n".join([line(), line(weight=0)]), 1, "f", Anything(), found.append)
    assert messages.lines.tolist() == [2]
    assert [rejection.reason for rejection in found] == [
        "messages[1].content is empty, and would train the model to say nothing; remove the message, "
        "or give it `weight` 0"
    ]


NAMES = [
    *REFUSED,
    *HARMLESS,
    "train",
    "from",
    "value",
    "role",
    "content",
    "tool_calls",
    "output",
    "input",
    "contents",
]
VALUES: list[Any] = [
    *(value for value, _ in REFUSED.values()),
    *HARMLESS.values(),
    0,
    1,
    True,
    "",
    "text",
    [],
    {},
    [[]],
    [None],
    ["a", 1],
    [{"role": "user"}],
    [{"role": "assistant", "content": ""}],
    [{"from": "gpt", "value": "x"}],
    [{"from": 3}],
    [{"parts": [{"text": "x"}], "role": "model"}],
    MESSAGES,
    json.dumps(MESSAGES),
    10**25,
    1e300,
    "\0",
]
LINE = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=4).map(
    lambda more: json.dumps({"messages": MESSAGES, **more}).encode()
)


@settings(max_examples=200)
@given(seed=st.integers(0, 10**9), count=st.integers(1, 3))
def test_both_paths_agree_about_any_form(seed: int, count: int) -> None:
    rng = random.Random(seed)
    lines = [json.dumps(any_line(rng)).encode() for _ in range(count)]
    one: list[Rejection] = []
    other: list[Rejection] = []
    found, counts = read_block(b"\n".join(lines), 1, "f", Anything(), one.append)
    wanted, wanted_counts = parse_lines(lines, 1, "f", Anything(), other.append)
    assert (columns(found), counts, one) == (columns(wanted), wanted_counts, other)


@settings(max_examples=400)
@given(lines=st.lists(LINE, min_size=1, max_size=3))
def test_both_paths_agree_about_the_keys_of_a_line(lines: list[bytes]) -> None:
    one: list[Rejection] = []
    other: list[Rejection] = []
    messages, counts = read_block(b"\n".join(lines), 1, "f", Anything(), one.append)
    wanted, wanted_counts = parse_lines(lines, 1, "f", Anything(), other.append)
    assert columns(messages) == columns(wanted)
    assert (counts, one) == (wanted_counts, other)


BASES: list[dict[str, Any]] = [
    {"messages": MESSAGES},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"instruction": "a", "output": "b"},
    {"prompt": "a", "completion": "b"},
    {"contents": [{"role": "user", "parts": [{"text": "a"}]}]},
    {},
]


def any_message(rng: random.Random) -> dict[str, Any]:
    key, value = rng.choice(["content", "value", "from", *NAMES]), rng.choice([*VALUES, "user", "assistant"])
    named = {"role": rng.choice(["user", "assistant", "gpt", "tool"])} if rng.random() < 0.8 else {}
    return {"content": "text", key: value} | named


def any_line(rng: random.Random) -> dict[str, Any]:
    value = dict(rng.choice(BASES))
    if rng.random() < 0.3:
        value["messages"] = [any_message(rng) for _ in range(rng.randint(0, 2))]
    value |= {rng.choice(NAMES): rng.choice(VALUES) for _ in range(rng.randint(0, 2))}
    return value


def test_any_line_is_packed_left_out_or_rejected_by_name() -> None:
    rng = random.Random(7)
    lines = [b"", b" \r", b"[", b"{}", b"[]", b"null", b"7"]
    lines += [json.dumps(any_line(rng)).encode() for _ in range(4000)]
    found: list[Rejection] = []
    alone: list[Rejection] = []
    messages, counts = read_block(b"\n".join(lines) + b"\n", 1, "f", Anything(), found.append)
    assert counts.lines == len(lines)
    wanted, wanted_counts = parse_lines(lines, 1, "f", Anything(), alone.append)
    assert (columns(messages), counts, found) == (columns(wanted), wanted_counts, alone)
    assert counts.lines == len(messages.last) + len(found) + counts.blank + counts.untrained
    assert len(messages.last) > 300
    assert counts.rejected > 300
    assert counts.untrained > 5
    for rejection in found:
        line = lines[int(rejection.place.split(":")[1]) - 1]
        names = list(orjson.loads(line)) if line.startswith(b"{") else []
        named = any(name in rejection.reason for name in names)
        assert named or "expected a JSON object" in rejection.reason or line in (b"[", b"{}"), rejection
