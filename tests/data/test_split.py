"""Splitting: each trained token once, whatever the roles and lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.document import TRAINED, Document, Turn, Words, count_trained, token_ids
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.packing.overlong import Atom, fit
from gemfit.data.render.renderer import make_renderer
from gemfit.data.tokenize.tokenizer import load_tokenizer

BEGIN, SYSTEM, HEADER, END = 2, 50, {"user": 60, "assistant": 70}, 1


def split(document: Document, seq_len: int, *, anywhere: bool = False) -> list[Atom]:
    return fit(document, "cut" if anywhere else "split", seq_len).atoms


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Documents whose trained tokens all differ, so that each can be counted."""
    roles = draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=12))
    begin = draw(st.sampled_from([[], [BEGIN]]))
    system = draw(st.sampled_from([[], [SYSTEM] * 3, [SYSTEM] * 20]))
    inside = draw(st.booleans())
    loss_on_all = draw(st.booleans())
    words, turns, fresh = (begin if inside else begin + system), [], 1000
    for index, role in enumerate(roles):
        header = [HEADER[role]] * draw(st.integers(1, 3))
        length = draw(st.integers(0, 60))
        turns.append(Turn(role, len(words), len(header)))
        flag = int(TRAINED) if role == "assistant" else 0
        inset = system if inside and index == 0 else []
        words = words + header + inset + [(fresh + i) | flag for i in range(length)] + [END | flag]
        fresh += length
    flat = np.array(words, np.uint32)
    if loss_on_all:
        flat[1:] |= TRAINED
    return Document(
        flat,
        tuple(turns),
        begin=np.array(begin, np.uint32),
        lead=np.array(begin if inside else begin + system, np.uint32),
        inset=np.array(system if inside else [], np.uint32),
        user_header=np.array([HEADER["user"]], np.uint32),
        user_end=np.array([END], np.uint32),
    )


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), anywhere=st.booleans())
def test_every_trained_token_is_trained_exactly_once_and_every_atom_fits(
    document: Document, seq_len: int, anywhere: bool
) -> None:
    atoms = split(document, seq_len, anywhere=anywhere)
    assert [w for atom in atoms for w in atom.words if w & TRAINED] == [
        w for w in document.words if w & TRAINED
    ]
    assert [w for atom in atoms for w in atom.body if w & TRAINED] == [
        w for w in document.words if w & TRAINED
    ]
    assert all(1 <= len(atom.body) <= len(atom.words) <= seq_len for atom in atoms)


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), anywhere=st.booleans())
def test_a_trained_token_always_has_something_before_it(
    document: Document, seq_len: int, anywhere: bool
) -> None:
    assert not any(atom.words[0] & TRAINED for atom in split(document, seq_len, anywhere=anywhere))


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), anywhere=st.booleans())
def test_linked_atoms_are_neighbours_and_none_is_lost_where_all_is_trained(
    document: Document, seq_len: int, anywhere: bool
) -> None:
    document.words[1:] |= TRAINED
    atoms = split(document, seq_len, anywhere=anywhere)
    assert np.concatenate([atom.body for atom in atoms]).tolist() == document.words.tolist()
    assert [atom.linked for atom in atoms] == [False] + [True] * (len(atoms) - 1)


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), anywhere=st.booleans())
def test_context_takes_at_most_half_a_row(document: Document, seq_len: int, anywhere: bool) -> None:
    assert all(atom.repeated <= seq_len // 2 for atom in split(document, seq_len, anywhere=anywhere))


@settings(max_examples=300)
@given(document=documents(), seq_len=st.integers(16, 80), anywhere=st.booleans())
def test_an_atom_says_where_it_begins(document: Document, seq_len: int, anywhere: bool) -> None:
    beginnings = {0, *(turn.start for turn in document.turns)}
    for atom in split(document, seq_len, anywhere=anywhere):
        assert atom.body.tolist() == document.words[atom.start : atom.start + len(atom.body)].tolist()
        assert atom.torn == (atom.start not in beginnings)


def as_text(tokenizer: Any, piece: Words) -> str:
    return str(tokenizer.decode(token_ids(piece).tolist()))


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


def test_atoms_end_between_exchanges_and_repeat_the_system_message(tokenizer: Any, format: str) -> None:
    renderer = make_renderer(tokenizer, format)
    (document,) = renderer.render([exchanges(8)])
    atoms = [as_text(tokenizer, atom.words) for atom in split(document, 96)]
    assert len(atoms) == 8
    for number, text in enumerate(atoms):
        assert text.startswith("<bos>")
        assert text.count("<bos>") == text.count("Be kind.") == 1
        assert text.index("Be kind.") < text.index(f"I feel {number} today") < text.index("I think")
        assert text.count("I feel") == text.count("I think") == 1


def test_a_piece_of_a_template_is_a_conversation_of_that_template(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer, "chat_template")
    talk = exchanges(8)
    (document,) = renderer.render([talk])
    atoms = split(document, 96)
    piece = np.concatenate([atoms[3].words, atoms[4].body, atoms[5].body])
    shorter = Conversation("here:1", (talk.messages[0], *talk.messages[7:13]))
    (alone,) = renderer.render([shorter])
    assert token_ids(piece).tolist() == token_ids(alone.words).tolist()


def test_an_answer_that_is_cut_goes_on_after_its_masked_question(tokenizer: Any, format: str) -> None:
    renderer = make_renderer(tokenizer, format, loss_on="assistant")
    (document,) = renderer.render([exchanges(1, answer="I think we walk. " * 90)])
    atoms = split(document, 120)
    assert len(atoms) > 3
    for atom in atoms:
        text = as_text(tokenizer, atom.words)
        assert text.count("I feel 0 today.") == 1
        assert text.count("Be kind.") == 1
        assert atom is atoms[0] or "I feel 0 today." in as_text(tokenizer, atom.words[: atom.repeated])
    assert sum(count_trained(atom.words) for atom in atoms) == document.trained_tokens


def test_cuts_anywhere_keep_question_and_system_message_in_front_of_every_answer(
    tokenizer: Any, format: str
) -> None:
    renderer = make_renderer(tokenizer, format, loss_on="assistant")
    talk = exchanges(6, answer="I think we walk. " * 12)
    (document,) = renderer.render([talk])
    atoms = split(document, 400, anywhere=True)
    assert len(atoms) > len(split(document, 400))
    assert sum(atom.torn for atom in atoms) >= 6
    assert sum(count_trained(atom.body) for atom in atoms) == document.trained_tokens
    # Questions are trained together with the answer's first words, so no neighbour is lost.
    assert [atom.linked for atom in atoms] == [False] + [True] * (len(atoms) - 1)
    for atom in atoms:
        text = as_text(tokenizer, atom.words)
        assert text.count("Be kind.") == 1
        assert text.count("I feel") >= 1
        assert text.index("Be kind.") < text.index("I feel") < text.index("walk")
        assert all(len(atom.words) <= 400 for atom in atoms)


def test_a_long_system_message_is_not_repeated(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer, "role_markers")
    (document,) = renderer.render([exchanges(6, system="Be kind. " * 20)])
    first, *others = [as_text(tokenizer, piece.words) for piece in split(document, 200)]
    assert "Be kind." in first
    assert others
    assert not any("Be kind." in piece for piece in others)


def test_an_atom_with_nothing_to_learn_is_left_out(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer, "role_markers", loss_on="assistant")
    long_question = Message("user", "I feel we walk today. " * 60)
    (document,) = renderer.render([Conversation("here:1", (long_question, Message("assistant", "Rest.")))])
    (piece,) = split(document, 128)
    assert not piece.linked
    assert count_trained(piece.words) == document.trained_tokens
    assert as_text(tokenizer, piece.words).endswith("Rest.<eos>")


def test_a_saved_tokenizer_splits_alike(tokenizer: Any, tokenizer_folder: Any, format: str) -> None:
    loaded = load_tokenizer(str(tokenizer_folder))
    one, other = (split(make_renderer(t, format).render([exchanges(9)])[0], 128) for t in (tokenizer, loaded))
    assert [p.words.tolist() for p in one] == [p.words.tolist() for p in other]
