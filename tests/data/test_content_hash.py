"""Content hashes: exact ones differ at any change, normalized ones ignore case, spacing and punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.jsonl.message_batch import Messages
from gemfit.data.jsonl.message_columns import MessageColumns
from gemfit.data.render.content_hash import content_digests, normalized_hashes

Turns = Sequence[tuple[str, str]]
SEPARATORS = re.compile("[^0-9a-z\x80-\U0010ffff]+|[\u00a0-\u00bf\u2000-\u206f\u3000-\u303f]+")
TEXT = st.text(st.sampled_from("aAbZ09 .,_-\n\té\u00a0\u00bf\u2019\u2070\u3000\u3041漢👍\u00c0"), max_size=8)
CONVERSATIONS = st.lists(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), min_size=1, max_size=3), max_size=5
)


def columns(conversations: Sequence[Turns], untrained: Sequence[int] = ()) -> Messages:
    found = MessageColumns()
    for turns in conversations:
        messages = tuple(Message(role, text) for role, text in turns)
        found.add(Conversation("f:1", messages, frozenset(untrained)), 1)
    return found.messages()


def normalized(turns: Turns) -> list[tuple[str, str]]:
    """What normalized_hashes is to see, written simply."""
    lowered = [(role, re.sub("[A-Z]", lambda found: found[0].lower(), text)) for role, text in turns]
    return [(role, re.sub(" +", " ", SEPARATORS.sub(" ", text)).strip(" ")) for role, text in lowered]


@given(conversations=CONVERSATIONS)
def test_exact_digests_are_equal_for_equal_conversations_only(conversations: list[Turns]) -> None:
    digests = [tuple(digest) for digest in content_digests(columns(conversations)).tolist()]
    for one, first in zip(digests, conversations, strict=True):
        for other, second in zip(digests, conversations, strict=True):
            assert (one == other) == (first == second)


@given(conversations=CONVERSATIONS)
def test_normalized_hashes_are_equal_for_equal_normalized_texts_only(conversations: list[Turns]) -> None:
    found = normalized_hashes(columns(conversations)).tolist()
    for one, first in zip(found, conversations, strict=True):
        for other, second in zip(found, conversations, strict=True):
            assert (one == other) == (normalized(first) == normalized(second)), (first, second)


def test_normalized_hashes_ignore_case_spacing_and_punctuation() -> None:
    one, other, third = normalized_hashes(
        columns(
            [
                [("user", "How are you, really?"), ("assistant", "It’s “fine” – thanks.")],
                [("user", " how ARE you   really"), ("assistant", "It s fine\nthanks!")],
                [("user", "How are you really fine"), ("assistant", "thanks")],
            ]
        )
    ).tolist()
    assert one == other != third


@pytest.mark.parametrize("of", [content_digests, normalized_hashes])
def test_boundaries_of_messages_change_the_hash(of: object) -> None:
    conversations = [[("user", "ab"), ("user", "c")], [("user", "a"), ("user", "bc")], [("user", "abc")]]
    assert callable(of)
    assert len({str(digest) for digest in of(columns(conversations)).tolist()}) == 3


def test_weight_0_changes_the_exact_digest_only() -> None:
    conversation = [("user", "a"), ("assistant", "b")]
    trained, untrained = columns([conversation]), columns([conversation], untrained=[1])
    assert (content_digests(trained) != content_digests(untrained)).any()
    assert normalized_hashes(trained).tolist() == normalized_hashes(untrained).tolist()


def test_hashes_never_change() -> None:
    conversation = columns([[("system", "Be kind."), ("user", "Hello, 漢字!"), ("assistant", "")]])
    assert [f"{value:016x}" for value in content_digests(conversation)[0]] == DIGEST
    assert f"{normalized_hashes(conversation)[0]:016x}" == NORMALIZED_HASH


DIGEST = ["6f7e8b57566003ca", "8e849a126f55528f"]
NORMALIZED_HASH = "716513b0dd76a930"
