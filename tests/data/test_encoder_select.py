"""Encoder selection: the fastest verified engine is chosen, and a wrong one is found and named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemfit.data.pack.reader import read_manifest
from gemfit.data.tokenize import Encoder, EngineMismatch, reference_encoder, select
from gemfit.data.tokenize.bpe import word_cache as bpe_word_cache
from gemfit.data.tokenize.bpe.cache_file import load_tables, save_tables
from gemfit.data.tokenize.bpe.word_cache import word_cache
from gemfit.data.tokenize.protocol import Ends, Ids, Unsuited
from gemfit.data.tokenize.sampling import sample_texts
from gemfit.data.tokenize.select import select_encoder
from gemfit.data.tokenize.tokenizer_json import parse_tokenizer
from gemfit.data.tokenize.verification import compare, sample_encoded
from gemfit.errors import UserError

from .conftest import WriteConversations, WriteJob, random_conversations


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


SAMPLE_TEXTS = sample("we feel the night", "I know the day.\n\nAnd you?", "rest <eos> today", "")


@pytest.fixture(scope="module")
def fields(tokenizer: Any) -> dict[str, Any]:
    """The small tokenizer as gigatoken can load it: without its pre-tokenizer."""
    return {**json.loads(tokenizer.backend_tokenizer.to_str()), "pre_tokenizer": None}


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> Callable[..., None]:
    """Put a wrong engine in gigatoken's place, where the word cache is not proven."""

    def put(word: str, **options: Any) -> None:
        wrong = Wrong(reference_encoder(tokenizer), word.encode(), **options)
        monkeypatch.setattr(select, "gigatoken_encoder", lambda _: wrong)
        monkeypatch.setattr(bpe_word_cache, "word_cache", unproven)

    def unproven(_: Any) -> None:
        raise Unsuited("this is a test")

    return put


@pytest.fixture
def no_gigatoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is not installed."""
    monkeypatch.setitem(sys.modules, "gigatoken", None)


def chosen(fields: dict[str, Any], said: list[str], **options: Any) -> Encoder:
    return select_encoder(json.dumps(fields), options.pop("sample", SAMPLE_TEXTS), said.append, **options)


@pytest.mark.parametrize(("engine", "name"), [("auto", "word cache"), ("gigatoken", "gigatoken")])
def test_an_engine_is_chosen_without_a_message(fields: dict[str, Any], engine: Any, name: str) -> None:
    said: list[str] = []
    assert (chosen(fields, said, engine=engine).name, said) == (name, [])


def test_an_engine_is_chosen_without_any_data(fields: dict[str, Any]) -> None:
    assert chosen(fields, [], sample=Sample(b"", np.empty(0, np.int64))).name == "word cache"


def test_the_reference_can_be_asked_for(fields: dict[str, Any]) -> None:
    said: list[str] = []
    assert (chosen(fields, said, engine="tokenizers").name, said) == ("tokenizers", [])


def test_a_cache_that_is_not_proven_is_left_out_and_the_reason_is_said(fields: dict[str, Any]) -> None:
    said: list[str] = []
    vocab = fields["model"]["vocab"] | {"<0x41>b": 999}
    assert chosen({**fields, "model": fields["model"] | {"vocab": vocab}}, said).name == "gigatoken"
    why = "an entry of its vocabulary contains the name of a byte"
    assert said == [f"gigatoken encodes, without a word cache, since {why}"]


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
def test_the_word_cache_needs_no_gigatoken(fields: dict[str, Any]) -> None:
    said: list[str] = []
    assert (chosen(fields, said).name, said) == ("word cache", [])


@pytest.mark.usefixtures("no_gigatoken")
def test_without_any_fast_engine_the_reference_encodes_and_the_reason_is_said(fields: dict[str, Any]) -> None:
    said: list[str] = []
    model = fields["model"] | {"ignore_merges": True}
    assert chosen({**fields, "model": model}, said).name == "tokenizers"
    (line,) = said
    assert line.startswith(
        "tokenizers encodes, without a word cache, since its model has ignore_merges True; "
    )
    assert "gigatoken cannot be used: it cannot be imported" in line
    assert "pip install '/path/to/gemfit[train]'" in line


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
    assert said[-1].startswith("tokenizers encodes, since gigatoken differs from tokenizers at token ")
    line = said[-1]
    assert "begins with 'I know the day." in line


def test_an_engine_that_is_wrong_on_adversarial_text_alone_is_found(
    fields: dict[str, Any], plant: Callable[..., None]
) -> None:
    plant("👩‍👩‍👧‍👦")
    said: list[str] = []
    assert (chosen(fields, said).name, len(said)) == ("tokenizers", 2)


def test_an_engine_that_loses_an_id_is_found(fields: dict[str, Any], plant: Callable[..., None]) -> None:
    plant("know the day", lose=True)
    said: list[str] = []
    assert chosen(fields, said).name == "tokenizers"
    assert "ids for" in said[-1]


def test_an_engine_that_is_asked_for_and_wrong_is_an_error(
    fields: dict[str, Any], plant: Callable[..., None]
) -> None:
    plant("know the day")
    with pytest.raises(UserError, match=r"gigatoken differs from tokenizers at token .*use engine: auto"):
        chosen(fields, [], engine="gigatoken")


def test_wrong_split_points_are_found(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = np.zeros((2, 256, 256), np.bool_)
    everywhere[:, :128, :128] = True
    monkeypatch.setattr(
        bpe_word_cache, "word_cache", lambda given: replace(word_cache(given), split_points=everywhere)
    )
    said: list[str] = []
    assert chosen(fields, said).name == "tokenizers"
    assert said[0].startswith("tokenizers encodes, since word cache differs")


def test_a_sample_of_what_is_encoded_tells_a_wrong_engine_from_a_right_one(tokenizer: Any) -> None:
    reference = reference_encoder(tokenizer)
    text, ends = sample_arrays([f"text {number} about the weather" for number in range(5000)])
    right = sample_encoded(reference, text, ends, *reference.encode(text, ends), one_in=100)
    assert 20 < len(right.texts) < 80
    compare(right, reference)
    engine = Wrong(reference, b"weather")
    wrong = sample_encoded(engine, text, ends, *engine.encode(text, ends), one_in=100)
    with pytest.raises(EngineMismatch, match=r"gigatoken differs .* 'text \d+ about the weather'"):
        compare(wrong, reference)
    with pytest.raises(EngineMismatch, match=r"4999 of 5000 ids"):
        sample_encoded(reference, b"a" * 5000, np.arange(1, 5001), np.zeros(5000, np.uint32), np.arange(5000))


def test_cached_tables_encode_like_new_ones(tokenizer: Any, tmp_path: Path) -> None:
    cache = word_cache(parse_tokenizer(tokenizer.backend_tokenizer.to_str()))
    save_tables(cache, tmp_path / "words/tables.npz")
    loaded = load_tables(tmp_path / "words/tables.npz")
    assert loaded is not None
    text, ends = sample_arrays(
        [f"text {number} <eos>\n\nabout é  the weather 漢字の話" for number in range(50)]
    )
    mine, theirs = loaded.encode(text, ends), cache.encode(text, ends)
    assert [one.tolist() for one in mine] == [one.tolist() for one in theirs]


@pytest.mark.parametrize("damage", [0, 1, 100, -1])
def test_damaged_tables_count_as_none(tokenizer: Any, tmp_path: Path, damage: int) -> None:
    path = tmp_path / "tables.npz"
    save_tables(word_cache(parse_tokenizer(tokenizer.backend_tokenizer.to_str())), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:damage])
    assert load_tables(path) is None
    path.write_bytes(whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 + 1 :])
    assert load_tables(path) is None, "a byte has changed"
    assert load_tables(tmp_path / "never.npz") is None


def test_the_texts_that_are_checked_depend_on_their_content_alone() -> None:
    texts = [f"{number} is a number" for number in range(100_000)]
    text, ends = sample_arrays(texts)
    picked = {texts[index] for index in sample_texts(text, ends, 1024)}
    assert 60 < len(picked) < 140
    text, ends = sample_arrays(texts[::-1][:50_000])
    assert {texts[::-1][index] for index in sample_texts(text, ends, 1024)} == picked & set(texts[50_000:])


def sample_arrays(texts: list[str]) -> tuple[bytes, Ends]:
    given = sample(*texts)
    return given.text, given.ends


def test_a_tiny_build_imports_no_bpe(
    write_conversations_file: WriteConversations, write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(write_conversations_file(random_conversations(40)), seq_len=128)
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('gemfit.data', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print([name for name in sys.modules if name.startswith('gemfit.data.tokenize.bpe')])"
    )
    argv = [sys.executable, "-c", code, str(job), "--out", str(tmp_path / "pack"), "--workers", "1"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    assert read_manifest(tmp_path / "pack").engine == "tokenizers"
