"""Blocks to tokenized blocks: batch and line parsing agree, and compiled assembly equals the renderer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.build.block_pipeline import make_block
from gemfit.data.document import Words
from gemfit.data.jsonl.batch_parser import parse_lines, read_block
from gemfit.data.jsonl.conversation import Conversation, Message, parse_conversation
from gemfit.data.jsonl.line_parser import Rejection
from gemfit.data.jsonl.line_settings import DEFAULTS, ROLES
from gemfit.data.jsonl.message_batch import Messages, TokenizedBlock
from gemfit.data.jsonl.message_columns import MessageColumns
from gemfit.data.packing.overlong import fit_document
from gemfit.data.render.render_context import RenderContext, make_render_context
from gemfit.data.render.trim import SPACES, trimmed
from gemfit.data.tokenize import reference_encoder
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

from .conftest import random_conversations

COLUMNS = ("ends", "roles", "last", "lines")


class Anything:
    """A check that every conversation passes."""

    def passes(self, messages: Messages) -> bool:
        return True

    def check(self, conversation: Conversation) -> None:
        pass


def rendering(tokenizer: Any, **data: Any) -> RenderContext:
    data = {"near_duplicates": "ignore", "pii": "ignore"} | data
    return make_render_context(tokenizer, DataRecipe(source="x", **data), reference_encoder(tokenizer))


def lines_of(values: Sequence[object]) -> bytes:
    return b"".join((v if isinstance(v, bytes) else orjson.dumps(v)) + b"\n" for v in values)


def say(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


TEXTS = st.text(st.sampled_from("aB .,\n\t_\u00a0é漢👍\u2003\0\x1c"), max_size=6)
PLAIN = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXTS}), min_size=1
).map(lambda messages: {"messages": messages})
ODD_MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from([*ROLES, "developer", "User", None, 3, ["user"]])},
    optional={
        "content": st.one_of(
            TEXTS,
            st.none(),
            st.integers(-9, 9),
            st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS})),
        ),
        "weight": st.sampled_from([0, 1, None, 0.5, "1"]),
        "wieght": st.sampled_from([0, None]),
        "name": TEXTS,
        "images": st.sampled_from([[], ["x.png"]]),
        "tool_calls": st.sampled_from([[], None, "x", [{"name": "f", "arguments": {}}], [{"function": 3}]]),
    },
)
ODD = st.one_of(
    st.lists(ODD_MESSAGES, max_size=4).map(lambda messages: {"messages": messages}),
    st.fixed_dictionaries(
        {"messages": st.sampled_from([[], "text", None, {}, {"role": "user"}, [[]], ["role"]])},
    ),
    st.fixed_dictionaries(
        {"messages": st.lists(ODD_MESSAGES, min_size=1, max_size=2)},
        optional={"tools": st.sampled_from([None, [], [{"name": "f"}], "f"]), "id": st.integers(0, 9)},
    ),
    st.sampled_from([[], 3, None, "x", {}, {"text": "x"}, {"conversations": []}]),
).map(orjson.dumps)
RAW = st.sampled_from(
    [
        b"",
        b" ",
        b"\r",
        b"\t\r",
        b"{",
        b'"',
        b"[1",
        b'{"messages": [',
        b'{"a": 1}, {"b": 2}',
        b"\xe9",
        b"\0",
        b"\xef\xbb\xbf{}",
    ]
)
LINES = st.lists(
    st.one_of(PLAIN.map(orjson.dumps), ODD, RAW, PLAIN.map(lambda v: orjson.dumps(v) + b"\r")), max_size=6
)


def columns(messages: Messages) -> dict[str, Any]:
    marks = [] if messages.untrained is None else np.flatnonzero(messages.untrained).tolist()
    arrays = {name: getattr(messages, name).tolist() for name in COLUMNS}
    return arrays | {"text": messages.text, "untrained": marks}


@settings(max_examples=400)
@given(lines=LINES, first_line=st.sampled_from([1, 7]), ends=st.booleans())
def test_batch_and_line_parsing_give_the_same(lines: list[bytes], first_line: int, ends: bool) -> None:
    block = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    one: list[Rejection] = []
    other: list[Rejection] = []
    messages, counts = read_block(block, first_line, "f", Anything(), one.append)
    bare = block.removeprefix(b"\xef\xbb\xbf") if first_line == 1 else block
    each = bare.split(b"\n")
    wanted, wanted_counts = parse_lines(
        each[:-1] if not each[-1] else each, first_line, "f", Anything(), other.append
    )
    assert columns(messages) == columns(wanted)
    assert (counts, one) == (wanted_counts, other)


def is_plain(value: Any) -> bool:
    """Whether nothing of it is refused: no NUL, and no reply without text."""
    replies = [message["content"] for message in value["messages"] if message["role"] == "assistant"]
    return "\\u0000" not in json.dumps(value) and all(map(str.strip, replies))


@given(values=st.lists(PLAIN.filter(is_plain), min_size=1))
def test_plain_conversations_take_the_batch_path_with_any_harmless_keys(values: list[Any]) -> None:
    plain = MessageColumns()
    assert plain.add_batch([orjson.dumps(value) for value in values], 1)
    named = [
        {
            "id": 1,
            "messages": [
                {"name": "x", "tool_calls": None, "weight": None, **message} for message in value["messages"]
            ],
        }
        for value in values
    ]
    other = MessageColumns()
    assert other.add_batch([orjson.dumps(value) for value in named], 1)
    assert columns(plain.messages()) == columns(other.messages())


def test_lines_that_are_json_only_together_are_rejected_one_by_one() -> None:
    good = orjson.dumps(say(("user", "a")))
    block = b"\n".join([good[:-1] + b', "a": 1', b'"b": 2}', good + b"," + good, good[:30], good[30:]])
    found: list[Rejection] = []
    messages, counts = read_block(block, 1, "f", Anything(), found.append)
    assert [rejection.place for rejection in found] == [f"f:{number}" for number in range(1, 6)]
    assert (counts.rejected, len(messages.last)) == (5, 0)


def test_the_first_bad_line_of_a_block_raises_without_reject() -> None:
    block = lines_of([say(("user", "a")), b"", b"nonsense", b"{"])
    with pytest.raises(UserError, match=r"^f:12: is not JSON"):
        read_block(block, 10, "f", Anything(), None)


def test_a_line_at_the_limit_is_read_and_one_byte_more_is_refused() -> None:
    empty = len(orjson.dumps(say(("user", ""))))
    fits = orjson.dumps(say(("user", "a" * (DEFAULTS.max_bytes - empty))))
    found: list[Rejection] = []
    block = b"\n".join([fits, fits + b" ", b" " * (DEFAULTS.max_bytes + 1), b" " * DEFAULTS.max_bytes])
    messages, counts = read_block(block, 1, "f", Anything(), found.append)
    assert messages.lines.tolist() == [1]
    assert [rejection.place for rejection in found] == ["f:2", "f:3"]
    assert all("longer than 8 MiB" in rejection.reason for rejection in found)
    assert counts.blank == 1


# RenderContext.

TURNS = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant", "tool"]),
        st.text(st.sampled_from("ab \n<eos>\u3000é"), max_size=9),
    ),
    min_size=1,
    max_size=7,
)
ALTERNATING = st.lists(st.text(st.sampled_from("ab \n<eos>\u3000é"), max_size=9), min_size=2, max_size=7).map(
    lambda texts: [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
)
SYSTEM = st.sampled_from([[], [("system", "we rest ")]])


@st.composite
def conversations(draw: st.DrawFn, templated: bool) -> list[dict[str, Any]]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        value = say(*draw(SYSTEM), *draw(ALTERNATING if templated else TURNS), ("assistant", "yes"))
        if templated and value["messages"][-2]["role"] == "assistant":
            value["messages"].pop()
            value["messages"][-1]["content"] += "yes"
        for message in value["messages"][:-1]:
            if draw(st.integers(0, 5)) == 0 or (
                message["role"] == "assistant" and not message["content"].strip()
            ):
                message["weight"] = 0
        found.append(value)
    return found


FORMATS = [("role_markers", "token"), ("role_markers", "literal"), ("chat_template", "token")]


@pytest.mark.parametrize(("format", "eos"), FORMATS)
@pytest.mark.parametrize("loss_on", ["all", "assistant"])
@settings(max_examples=40)
@given(draw=st.data())
def test_compiled_assembly_equals_the_renderer_bit_for_bit(
    tokenizer: Any, format: str, eos: str, loss_on: str, draw: st.DataObject
) -> None:
    overlong = draw.draw(st.sampled_from(["split", "cut", "truncate", "drop"]))
    made = rendering(tokenizer, format=format, eos=eos, loss_on=loss_on, seq_len=64, overlong=overlong)
    values = draw.draw(conversations(format == "chat_template"))
    block, counts = make_block(lines_of(values), 1, "f", made, None)
    documents = made.renderer.render([parse_conversation(value, "f:1") for value in values])
    assert counts.rejected == 0
    assert block.tokens.tolist() == [len(document.words) for document in documents]
    assert block.trained.tolist() == [document.trained_tokens for document in documents]
    fragments = [
        (fragment, number)
        for number, document in enumerate(documents)
        for fragment in fit_document(document, overlong, 64).fragments
    ]
    stored = [[*one.words, *(one.body if one.continues else [])] for one, _ in fragments]
    words = [word for fragment in stored for word in fragment]
    assert block.words.tolist() == words
    assert block.lengths.tolist() == [len(fragment.words) for fragment, _ in fragments]
    assert block.context.tolist() == [fragment.repeated for fragment, _ in fragments]
    assert block.continues.tolist() == [fragment.continues for fragment, _ in fragments]
    assert block.starts.tolist() == [fragment.start for fragment, _ in fragments]
    assert block.conversation.tolist() == [n for _, n in fragments]


@pytest.mark.parametrize("overlong", ["split", "truncate", "drop"])
def test_every_token_of_a_conversation_is_in_a_fragment_or_counted_as_lost(
    tokenizer: Any, overlong: str
) -> None:
    made = rendering(tokenizer, overlong=overlong, seq_len=64, loss_on="assistant")
    block, _ = make_block(lines_of(random_conversations(60, seed=3)), 1, "f", made, None)
    assert (block.tokens > 64).sum() > 20
    bodies = np.bincount(block.conversation, block.lengths - block.context, len(block.tokens))
    accounted = bodies + block.truncated + block.dropped + block.untrained
    assert accounted.tolist() == block.tokens.tolist()
    lost = {"split": block.truncated + block.dropped, "truncate": block.dropped, "drop": block.truncated}[
        overlong
    ]
    assert not lost.any()


CONVERSATION = say(("system", "we"), ("user", "rest"), ("assistant", "night"))
TOOL_CONVERSATION = say(("system", "we"), ("user", "rest"), ("tool", "day"), ("assistant", "night"))


@pytest.mark.parametrize(("format", "eos"), FORMATS)
def test_tokens_of_roles_are_those_of_their_turns(tokenizer: Any, format: str, eos: str) -> None:
    made = rendering(tokenizer, eos=eos, format=format)
    conversation = CONVERSATION if format == "chat_template" else TOOL_CONVERSATION
    block, _ = make_block(lines_of([conversation]), 1, "f", made, None)
    segments, control = made.renderer.segments, made.renderer.control
    outside = len(control[segments.begin]) + len(control[segments.final])
    assert block.role_tokens.sum() == block.tokens.sum() - outside
    assert (block.role_tokens[0] > 0).tolist() == [True, True, True, conversation is TOOL_CONVERSATION]


def test_a_block_without_conversations_is_an_empty_tokenized_block(tokenizer: Any) -> None:
    made = rendering(tokenizer, near_duplicates="group", pii="count")
    block, counts = make_block(b"\n\n", 1, "f", made, None)
    assert (counts.lines, counts.blank) == (2, 2)
    assert all(len(getattr(block, name)) == 0 for name in TokenizedBlock.__dataclass_fields__)


def test_a_tokenized_block_does_not_depend_on_its_position(tokenizer: Any) -> None:
    made = rendering(tokenizer, near_duplicates="group")
    block = lines_of(random_conversations(5))
    one, other = (make_block(block, first, "f", made, None)[0] for first in (1, 1000))
    assert (other.lines - one.lines).tolist() == [999] * 5
    for name in set(TokenizedBlock.__dataclass_fields__) - {"lines"}:
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


@given(
    texts=st.lists(
        st.text(st.sampled_from([*SPACES, "a", "é", "漢", "\u200b", "\u2011"]), max_size=6), min_size=1
    )
)
def test_contents_are_stripped_like_python_strings(texts: list[str]) -> None:
    conversation = Conversation(
        "f:1", tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    )
    read = MessageColumns()
    read.add(conversation, 1)
    found, ends = trimmed(read.messages(), frozenset({"user"}))
    wanted = [text.strip() if i % 2 == 0 else text for i, text in enumerate(texts)]
    starts = [0, *ends.tolist()]
    assert [found[a:b].decode() for a, b in pairwise(starts)] == wanted


def kept_text(tokenizer: Any, block: TokenizedBlock) -> list[str]:
    """The trained text of each fragment, with `|` where untrained tokens lie between."""
    parts, at = [], 0
    for length in block.lengths.tolist():
        parts.append(trained_text(tokenizer, block.words[at : at + length]))
        at += length
    return parts


def trained_text(tokenizer: Any, words: Words) -> str:
    flags = (words >> 31).astype(bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]).astype(int)))
    ids = (words & 0x7FFFFFFF).tolist()
    return "|".join(str(tokenizer.decode(ids[a:b])) for a, b in zip(edges[::2], edges[1::2], strict=True))


def test_a_weight_of_zero_keeps_a_turn_out_of_the_loss(tokenizer: Any) -> None:
    value = say(("user", "day"), ("assistant", "no"), ("user", "night"), ("assistant", "yes"))
    value["messages"][1]["weight"] = 0
    value["messages"][3]["weight"] = 1
    for loss_on, wanted in (
        ("assistant", "yes<eos>"),
        ("all", "<|user|>day<eos>|<|user|>night<eos><|assistant|>yes<eos>"),
    ):
        block, _ = make_block(lines_of([value]), 1, "f", rendering(tokenizer, loss_on=loss_on), None)
        assert kept_text(tokenizer, block) == [wanted]


def test_rows_differ_by_what_is_trained_so_their_digests_do(tokenizer: Any) -> None:
    plain, weighed = (say(("user", "day"), ("assistant", "no"), ("assistant", "yes")) for _ in range(2))
    weighed["messages"][1]["weight"] = 0
    block, _ = make_block(lines_of([plain, weighed]), 1, "f", rendering(tokenizer), None)
    assert block.digests[0].tolist() != block.digests[1].tolist()
    assert block.normalized_hashes[0] == block.normalized_hashes[1]


@pytest.mark.parametrize("on_line_path", [False, True])
def test_messages_without_text_are_counted_on_both_paths(on_line_path: bool, tokenizer: Any) -> None:
    texts = ["", " ", "\n\t", "a", " a", "\u00a0", "é", ""]
    odd: list[object] = [{"messages": 1}] if on_line_path else []
    lines = [say(("user", text), ("assistant", "x")) for text in texts]
    counts = make_block(lines_of([*lines, *odd]), 1, "f", rendering(tokenizer), lambda rejection: None)[1]
    assert (counts.empty_messages, counts.rejected) == (4, len(odd))
