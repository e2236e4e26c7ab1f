"""Splitting into fragments: each trained token once, whatever the roles and lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.document import TRAINED, Document, Turn, Words, count_trained, token_ids
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.packing.overlong import ConversationFragment, fit_document
from gemfit.data.render.renderer import make_renderer
from gemfit.data.tokenize.tokenizer import load_tokenizer

BEGIN, SYSTEM, HEADER, END = 2, 50, {"user": 60, "assistant": 70}, 1


def split(document: Document, seq_len: int, *, cut: bool = False) -> list[ConversationFragment]:
    return fit_document(document, "cut" if cut else "split", seq_len).fragments


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Documents whose trained tokens all differ, so that each can be counted."""
    roles = draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=12))
    bos = draw(st.sampled_from([[], [BEGIN]]))
    system = draw(st.sampled_from([[], [SYSTEM] * 3, [SYSTEM] * 20, [SYSTEM] * 90]))
    inside = draw(st.booleans())
    loss_on_all = draw(st.booleans())
    words, turns, fresh = (bos if inside else bos + system), [], 1000
    for index, role in enumerate(roles):
        header = [HEADER[role]] * draw(st.integers(1, 3))
        length = draw(st.integers(0, 60))
        turns.append(Turn(role, len(words), len(header)))
        flag = int(TRAINED) if role == "assistant" else 0
        inline_system = system if inside and index == 0 else []
        words = words + header + inline_system + [(fresh + i) | flag for i in range(length)] + [END | flag]
        fresh += length
    flat = np.array(words, np.uint32)
    if loss_on_all:
        flat[1:] |= TRAINED
    return Document(
        flat,
        tuple(turns),
        bos=np.array(bos, np.uint32),
        system_prefix=np.array(bos if inside else bos + system, np.uint32),
        inline_system=np.array(system if inside else [], np.uint32),
        user_header=np.array([HEADER["user"]], np.uint32),
        user_end=np.array([END], np.uint32),
    )


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), cut=st.booleans())
def test_every_trained_token_is_trained_exactly_once_and_every_fragment_fits(
    document: Document, seq_len: int, cut: bool
) -> None:
    fragments = split(document, seq_len, cut=cut)
    assert [w for fragment in fragments for w in fragment.words if w & TRAINED] == [
        w for w in document.words if w & TRAINED
    ]
    assert [w for fragment in fragments for w in fragment.body if w & TRAINED] == [
        w for w in document.words if w & TRAINED
    ]
    assert all(1 <= len(fragment.body) <= len(fragment.words) <= seq_len for fragment in fragments)


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), cut=st.booleans())
def test_a_trained_token_always_has_left_context(document: Document, seq_len: int, cut: bool) -> None:
    assert not any(fragment.words[0] & TRAINED for fragment in split(document, seq_len, cut=cut))


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), cut=st.booleans())
def test_every_fragment_begins_with_the_bos_token_and_has_no_other(
    document: Document, seq_len: int, cut: bool
) -> None:
    for fragment in split(document, seq_len, cut=cut):
        assert np.count_nonzero(token_ids(fragment.words) == BEGIN) == len(document.bos)
        assert fragment.words[: len(document.bos)].tolist() == document.bos.tolist()


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), cut=st.booleans())
def test_fragments_continue_their_neighbours_and_none_is_lost_if_all_is_trained(
    document: Document, seq_len: int, cut: bool
) -> None:
    document.words[1:] |= TRAINED
    fragments = split(document, seq_len, cut=cut)
    assert np.concatenate([fragment.body for fragment in fragments]).tolist() == document.words.tolist()
    assert [fragment.continues for fragment in fragments] == [False] + [True] * (len(fragments) - 1)


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), cut=st.booleans())
def test_context_takes_at_most_half_a_row(document: Document, seq_len: int, cut: bool) -> None:
    assert all(fragment.repeated <= seq_len // 2 for fragment in split(document, seq_len, cut=cut))


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), cut=st.booleans())
def test_a_fragment_has_its_start_and_knows_mid_message_cuts(
    document: Document, seq_len: int, cut: bool
) -> None:
    beginnings = {0, *(turn.start for turn in document.turns)}
    for fragment in split(document, seq_len, cut=cut):
        body = document.words[fragment.start : fragment.start + len(fragment.body)]
        assert fragment.body.tolist() == body.tolist()
        assert fragment.mid_message == (fragment.start not in beginnings)


def as_text(tokenizer: Any, chunk: Words) -> str:
    return str(tokenizer.decode(token_ids(chunk).tolist()))


def exchanges(
    count: int, *, system: str = "Be kind.", answer: str = "I think we rest today."
) -> Conversation:
    turns = [Message("system", system)]
    for number in range(count):
        turns += [Message("user", f"I feel {number} today."), Message("assistant", f"{answer} {number}")]
    return Conversation("here:1", tuple(turns))


@pytest.fixture(scope="module", params=["role_markers", "chat_template"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_fragments_end_between_exchanges_and_repeat_the_system_message(tokenizer: Any, format: str) -> None:
    renderer = make_renderer(tokenizer, format)
    (document,) = renderer.render([exchanges(8)])
    fragments = [as_text(tokenizer, fragment.words) for fragment in split(document, 96)]
    assert len(fragments) == 8
    for number, text in enumerate(fragments):
        assert text.startswith("<bos>")
        assert text.count("<bos>") == text.count("Be kind.") == 1
        assert text.index("Be kind.") < text.index(f"I feel {number} today") < text.index("I think")
        assert text.count("I feel") == text.count("I think") == 1


def test_a_chunk_of_a_templated_conversation_is_rendered_as_the_template_does(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer, "chat_template")
    conversation = exchanges(8)
    (document,) = renderer.render([conversation])
    fragments = split(document, 96)
    chunk = np.concatenate([fragments[3].words, fragments[4].body, fragments[5].body])
    shorter = Conversation("here:1", (conversation.messages[0], *conversation.messages[7:13]))
    (alone,) = renderer.render([shorter])
    assert token_ids(chunk).tolist() == token_ids(alone.words).tolist()


def test_an_answer_cut_in_the_middle_continues_after_its_masked_question(tokenizer: Any, format: str) -> None:
    renderer = make_renderer(tokenizer, format, loss_on="assistant")
    (document,) = renderer.render([exchanges(1, answer="I think we walk. " * 90)])
    fragments = split(document, 120)
    assert len(fragments) > 3
    for fragment in fragments:
        text = as_text(tokenizer, fragment.words)
        assert text.count("I feel 0 today.") == 1
        assert text.count("Be kind.") == 1
        context = as_text(tokenizer, fragment.words[: fragment.repeated])
        assert fragment is fragments[0] or "I feel 0 today." in context
    assert sum(count_trained(fragment.words) for fragment in fragments) == document.trained_tokens


def test_mid_message_cuts_repeat_question_and_system_message(tokenizer: Any, format: str) -> None:
    renderer = make_renderer(tokenizer, format, loss_on="assistant")
    conversation = exchanges(6, answer="I think we walk. " * 12)
    (document,) = renderer.render([conversation])
    fragments = split(document, 400, cut=True)
    assert len(fragments) > len(split(document, 400))
    assert sum(fragment.mid_message for fragment in fragments) >= 6
    assert sum(count_trained(fragment.body) for fragment in fragments) == document.trained_tokens
    # Questions are trained together with the answer's first words, so no neighbour is lost.
    assert [fragment.continues for fragment in fragments] == [False] + [True] * (len(fragments) - 1)
    for fragment in fragments:
        text = as_text(tokenizer, fragment.words)
        assert text.count("Be kind.") == 1
        assert text.count("I feel") >= 1
        assert text.index("Be kind.") < text.index("I feel") < text.index("walk")
        assert all(len(fragment.words) <= 400 for fragment in fragments)


def test_a_long_system_message_is_not_repeated(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer, "role_markers")
    (document,) = renderer.render([exchanges(6, system="Be kind. " * 20)])
    first, *others = [as_text(tokenizer, chunk.words) for chunk in split(document, 200)]
    assert "Be kind." in first
    assert others
    assert not any("Be kind." in chunk for chunk in others)


def test_a_fragment_without_trained_tokens_is_left_out(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer, "role_markers", loss_on="assistant")
    long_question = Message("user", "I feel we walk today. " * 60)
    (document,) = renderer.render([Conversation("here:1", (long_question, Message("assistant", "Rest.")))])
    (chunk,) = split(document, 128)
    assert not chunk.continues
    assert count_trained(chunk.words) == document.trained_tokens
    assert as_text(tokenizer, chunk.words).endswith("Rest.<eos>")


def test_a_saved_tokenizer_gives_the_same_fragments(
    tokenizer: Any, tokenizer_folder: Any, format: str
) -> None:
    loaded = load_tokenizer(str(tokenizer_folder))
    one, other = (split(make_renderer(t, format).render([exchanges(9)])[0], 128) for t in (tokenizer, loaded))
    assert [p.words.tolist() for p in one] == [p.words.tolist() for p in other]
