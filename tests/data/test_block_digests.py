"""Digests: exact ones tell every difference, likeness overlooks case, spacing and punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.data.jsonl.batch_parser import MessageColumns
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.jsonl.message_batch import Messages
from gemfit.data.render.content_hash import content_digests, likeness

Turns = Sequence[tuple[str, str]]
MARKS = re.compile("[^0-9a-z\x80-\U0010ffff]+|[\u00a0-\u00bf\u2000-\u206f\u3000-\u303f]+")
TEXT = st.text(st.sampled_from("aAbZ09 .,_-\n\té\u00a0\u00bf\u2019\u2070\u3000\u3041漢👍\u00c0"), max_size=8)
TALKS = st.lists(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), min_size=1, max_size=3), max_size=5
)


def columns(talks: Sequence[Turns], untrained: Sequence[int] = ()) -> Messages:
    found = MessageColumns()
    for turns in talks:
        messages = tuple(Message(role, text) for role, text in turns)
        found.add(Conversation("f:1", messages, frozenset(untrained)), 1)
    return found.messages()


def plain(turns: Turns) -> list[tuple[str, str]]:
    """What likeness is to see, written simply."""
    lowered = [(role, re.sub("[A-Z]", lambda found: found[0].lower(), text)) for role, text in turns]
    return [(role, re.sub(" +", " ", MARKS.sub(" ", text)).strip(" ")) for role, text in lowered]


@given(talks=TALKS)
def test_exact_digests_are_equal_for_equal_conversations_only(talks: list[Turns]) -> None:
    digests = [tuple(digest) for digest in content_digests(columns(talks)).tolist()]
    for one, first in zip(digests, talks, strict=True):
        for other, second in zip(digests, talks, strict=True):
            assert (one == other) == (first == second)


@given(talks=TALKS)
def test_likeness_is_equal_for_equal_plain_texts_only(talks: list[Turns]) -> None:
    found = likeness(columns(talks)).tolist()
    for one, first in zip(found, talks, strict=True):
        for other, second in zip(found, talks, strict=True):
            assert (one == other) == (plain(first) == plain(second)), (first, second)


def test_likeness_overlooks_case_spacing_and_punctuation() -> None:
    one, other, third = likeness(
        columns(
            [
                [("user", "How are you, really?"), ("assistant", "It’s “fine” – thanks.")],
                [("user", " how ARE you   really"), ("assistant", "It s fine\nthanks!")],
                [("user", "How are you really fine"), ("assistant", "thanks")],
            ]
        )
    ).tolist()
    assert one == other != third


@pytest.mark.parametrize("of", [content_digests, likeness])
def test_where_one_text_ends_and_another_begins_counts(of: object) -> None:
    talks = [[("user", "ab"), ("user", "c")], [("user", "a"), ("user", "bc")], [("user", "abc")]]
    assert callable(of)
    assert len({str(digest) for digest in of(columns(talks)).tolist()}) == 3


def test_what_is_kept_out_of_the_loss_counts_for_the_exact_digest_alone() -> None:
    talk = [("user", "a"), ("assistant", "b")]
    plain_one, weighed = columns([talk]), columns([talk], untrained=[1])
    assert (content_digests(plain_one) != content_digests(weighed)).any()
    assert likeness(plain_one).tolist() == likeness(weighed).tolist()


def test_digests_are_the_same_for_ever() -> None:
    talk = columns([[("system", "Be kind."), ("user", "Hello, 漢字!"), ("assistant", "")]])
    assert [f"{value:016x}" for value in content_digests(talk)[0]] == DIGEST
    assert f"{likeness(talk)[0]:016x}" == LIKENESS


DIGEST = ["6f7e8b57566003ca", "8e849a126f55528f"]
LIKENESS = "716513b0dd76a930"
