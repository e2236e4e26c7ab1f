"""The choice of an engine: the fastest that is proved, and a wrong one is found and named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from gemfit.data.encode import Encoder, EngineMismatch, choose, choose_encoder, reference_encoder
from gemfit.data.encode.checked import Checked
from gemfit.data.encode.encoder import Ends, Ids
from gemfit.data.encode.sampling import pick_texts
from gemfit.data.encode.words import word_cache
from gemfit.errors import UserError


@dataclass(frozen=True)
class Sample:
    """Texts as the builder hands them over."""

    text: bytes
    ends: Ends


def sample(*texts: str) -> Sample:
    encoded = [text.encode() for text in texts]
    return Sample(b"".join(encoded), np.cumsum([len(text) for text in encoded]))


@dataclass(frozen=True)
class Wrong:
    """The reference, but the last id of a text with ``word`` in it is one too high, or an id is lost."""

    reference: Encoder
    word: bytes
    lose: bool = False
    name: str = "gigatoken"

    def encode(self, text: bytes, ends: Ends) -> tuple[Ids, Ends]:
        ids, stops = self.reference.encode(text, ends)
        hit = [self.word in text[start:stop] for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
        ids[stops[hit] - 1] += 1
        return (ids[:-1], stops) if self.lose and any(hit) else (ids, stops)


TALK = sample("we feel the night", "I know the day.\n\nAnd you?", "rest <eos> today", "")


@pytest.fixture(scope="module")
def fields(tokenizer: Any) -> dict[str, Any]:
    """The small tokenizer as gigatoken can load it: without its pre-tokenizer."""
    return {**json.loads(tokenizer.backend_tokenizer.to_str()), "pre_tokenizer": None}


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> Callable[..., None]:
    """Put a wrong engine in gigatoken's place, without a word cache."""

    def put(word: str, **options: Any) -> None:
        wrong = Wrong(reference_encoder(tokenizer), word.encode(), **options)
        monkeypatch.setattr(choose, "gigatoken_encoder", lambda _: wrong)
        monkeypatch.setattr(choose, "word_cache", lambda _, behind: behind)

    return put


@pytest.fixture
def no_gigatoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is not installed."""
    monkeypatch.setitem(sys.modules, "gigatoken", None)


def chosen(fields: dict[str, Any], said: list[str], **options: Any) -> Encoder:
    return choose_encoder(json.dumps(fields), options.pop("sample", TALK), said.append, **options)


@pytest.mark.parametrize("engine", ["auto", "gigatoken"])
def test_the_fastest_engine_is_chosen_without_a_word(fields: dict[str, Any], engine: Any) -> None:
    said: list[str] = []
    assert (chosen(fields, said, engine=engine).name, said) == ("word cache + gigatoken", [])


def test_an_engine_is_chosen_without_any_data(fields: dict[str, Any]) -> None:
    assert chosen(fields, [], sample=Sample(b"", np.empty(0, np.int64))).name == "word cache + gigatoken"


def test_the_reference_can_be_asked_for(fields: dict[str, Any]) -> None:
    said: list[str] = []
    assert (chosen(fields, said, engine="tokenizers").name, said) == ("tokenizers", [])


def test_a_cache_that_is_not_proven_is_left_out_and_why_is_said(fields: dict[str, Any]) -> None:
    said: list[str] = []
    vocab = fields["model"]["vocab"] | {"<0x41>b": 999}
    assert chosen({**fields, "model": fields["model"] | {"vocab": vocab}}, said).name == "gigatoken"
    why = "an item of its vocabulary has the name of a byte in it"
    assert said == [f"gigatoken encodes without a word cache, since {why}"]


def test_an_added_token_that_gigatoken_takes_differently_is_found(fields: dict[str, Any]) -> None:
    said: list[str] = []
    token = {
        "id": len(fields["model"]["vocab"]),
        "content": "<x>",
        "single_word": True,
        "lstrip": False,
        "rstrip": False,
    }
    token |= {"normalized": False, "special": False}
    assert chosen({**fields, "added_tokens": [token]}, said).name == "tokenizers"
    assert said[-1].startswith("tokenizers encodes, since gigatoken differs from tokenizers at token ")


@pytest.mark.usefixtures("no_gigatoken")
def test_without_gigatoken_the_reference_encodes_behind_a_cache_and_why_is_said(
    fields: dict[str, Any],
) -> None:
    said: list[str] = []
    assert chosen(fields, said).name == "word cache + tokenizers"
    (line,) = said
    assert line.startswith("word cache + tokenizers encodes; gigatoken cannot be used: it cannot be imported")
    assert "pip install 'gemfit[train]'" in line


@pytest.mark.usefixtures("no_gigatoken")
def test_gigatoken_that_is_asked_for_and_missing_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"engine gigatoken: it cannot be imported .*pip install"):
        chosen(fields, [], engine="gigatoken")


def test_an_engine_that_is_wrong_on_the_data_is_named_and_the_reference_works(
    fields: dict[str, Any], plant: Callable[..., None]
) -> None:
    plant("know the day")
    said: list[str] = []
    assert chosen(fields, said).name == "tokenizers"
    (line,) = said
    assert line.startswith("tokenizers encodes, since gigatoken differs from tokenizers at token ")
    assert "begins with 'I know the day." in line


def test_an_engine_that_is_wrong_on_hostile_text_alone_is_found(
    fields: dict[str, Any], plant: Callable[..., None]
) -> None:
    plant("👩‍👩‍👧‍👦")
    said: list[str] = []
    assert (chosen(fields, said).name, len(said)) == ("tokenizers", 1)


def test_an_engine_that_loses_an_id_is_found(fields: dict[str, Any], plant: Callable[..., None]) -> None:
    plant("know the day", lose=True)
    said: list[str] = []
    assert chosen(fields, said).name == "tokenizers"
    assert "ids for" in said[0]


def test_an_engine_that_is_asked_for_and_wrong_is_an_error(
    fields: dict[str, Any], plant: Callable[..., None]
) -> None:
    plant("know the day")
    with pytest.raises(UserError, match=r"gigatoken differs from tokenizers at token .*use engine: auto"):
        chosen(fields, [], engine="gigatoken")


def test_a_cache_that_cuts_where_it_must_not_is_found(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = np.zeros((256, 256), np.bool_)
    everywhere[:128, :128] = True
    monkeypatch.setattr(choose, "word_cache", lambda *given: replace(word_cache(*given), cuts=everywhere))
    said: list[str] = []
    assert chosen(fields, said).name == "tokenizers"
    assert said[0].startswith("tokenizers encodes, since word cache + gigatoken differs")


def test_an_engine_that_turns_wrong_while_it_works_is_caught(
    fields: dict[str, Any], plant: Callable[..., None]
) -> None:
    plant("weather")
    encoder = chosen(fields, [])
    texts = [f"text {number} about the weather" for number in range(20_000)]
    assert encoder.name == "gigatoken"
    with pytest.raises(EngineMismatch, match=r"gigatoken differs .* 'text \d+ about the weather'"):
        encoder.encode(*sample_arrays(texts))


def test_an_engine_that_is_right_is_watched_without_complaint(tokenizer: Any) -> None:
    reference = reference_encoder(tokenizer)
    given = sample_arrays([f"text {number}" for number in range(3000)])
    ids, stops = Checked(reference, reference, one_in=100).encode(*given)
    right, right_stops = reference.encode(*given)
    assert np.array_equal(ids, right)
    assert np.array_equal(stops, right_stops)


def test_the_texts_that_are_checked_depend_on_their_content_alone() -> None:
    texts = [f"{number} is a number" for number in range(100_000)]
    text, ends = sample_arrays(texts)
    picked = {texts[index] for index in pick_texts(text, ends, 1024)}
    assert 60 < len(picked) < 140
    text, ends = sample_arrays(texts[::-1][:50_000])
    assert {texts[::-1][index] for index in pick_texts(text, ends, 1024)} == picked & set(texts[50_000:])


def sample_arrays(texts: list[str]) -> tuple[bytes, Ends]:
    given = sample(*texts)
    return given.text, given.ends
