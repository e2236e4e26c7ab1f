"""Encoders give the ids of the reference for any text, in any order, with an empty or a filled cache."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gemfit.data.tokenize import Encoder, reference_encoder
from gemfit.data.tokenize.adversarial_texts import TEXTS
from gemfit.data.tokenize.bpe.word_cache import word_cache
from gemfit.data.tokenize.bpe.word_ends import SEGMENT
from gemfit.data.tokenize.gigatoken import gigatoken_encoder
from gemfit.data.tokenize.protocol import Ends
from gemfit.data.tokenize.tokenizer import SPECIAL
from gemfit.data.tokenize.tokenizer_json import parse_tokenizer

GEMMA = Path(__file__).parents[2] / "examples/gemma-270m-chat/work/model"
ENGINES = ("word cache", "gigatoken")
SNIPPETS = (
    *TEXTS,
    *SPECIAL,
    *("<unused0>", "[multimodal]", "<mask>", "<start_of_image>", "<un", "used1>", "_turn>", "<start"),
    *(
        "今日はいい天気ですね。",
        "我们一起去看电影，",
        "人間と機械の",
        "的是不了",
        "ไปกินข้าว",
        "오늘은 날씨가",
        "“",
        "—",
    ),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "▁", ">", "</", "e", "́", "the", "Feel", ".", "</td>", "#"),
)
unspaced = st.text(
    st.characters(min_codepoint=0x2E80, max_codepoint=0x9FFF) | st.sampled_from("的一是不了のはをにが、。")
)
adversarial = st.lists(
    st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=12) | unspaced, max_size=10).map("".join),
    max_size=8,
)


@dataclass(frozen=True)
class Given:
    """Texts as encoders take them."""

    text: bytes
    ends: Ends


def join(texts: Sequence[str]) -> Given:
    encoded = [text.encode() for text in texts]
    return Given(b"".join(encoded), np.cumsum([0, *map(len, encoded)])[1:])


def rows(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, and that their types and ends are what an encoder promises."""
    given = join(texts)
    ids, ends = encoder.encode(given.text, given.ends)
    assert (ids.dtype.name, ends.dtype.name, len(ends)) == ("uint32", "int64", len(texts))
    assert len(ids) == (ends[-1] if len(ends) else 0)
    return [ids[start:stop].tolist() for start, stop in pairwise([0, *ends.tolist()])]


@pytest.fixture(scope="module")
def plain_tokenizer(tokenizer: Any) -> Any:
    """The small tokenizer without its pre-tokenizer, as Gemma's in effect is; gigatoken loads this one."""
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    ordinary = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    size = len(fields["model"]["vocab"])
    fields["added_tokens"] += [{"id": size, "content": "<unused0>", **ordinary}]
    fields["pre_tokenizer"] = None
    return tokenizers_from(fields)


@pytest.fixture(scope="module")
def gemma_tokenizer() -> Any:
    if not (GEMMA / "tokenizer.json").is_file():
        pytest.skip(f"{GEMMA} has no Gemma tokenizer; examples/gemma-270m-chat/run.py puts it there")
    return Tokenizer.from_file(str(GEMMA / "tokenizer.json"))


def tokenizers_from(fields: dict[str, Any]) -> Any:
    return Tokenizer.from_str(json.dumps(fields))


def make(name: str, tokenizer: Any, capacity: int = 2**14) -> Encoder:
    """The encoder of this name; a small capacity makes a cache that is full soon."""
    parsed = parse_tokenizer(tokenizer.to_str())
    if name == "word cache":
        return word_cache(parsed, capacity)
    return gigatoken_encoder(parsed) if name == "gigatoken" else reference_encoder(tokenizer)


@pytest.fixture(scope="module")
def small_encoders(plain_tokenizer: Any) -> tuple[Encoder, list[Encoder]]:
    """The reference and every other encoder; one cache has room for a few words only."""
    others = [make(name, plain_tokenizer) for name in ENGINES]
    return reference_encoder(plain_tokenizer), [*others, make(ENGINES[0], plain_tokenizer, capacity=16)]


@pytest.fixture(scope="module")
def gemma_encoders(gemma_tokenizer: Any) -> tuple[Encoder, list[Encoder]]:
    others = [make(name, gemma_tokenizer) for name in ENGINES]
    return reference_encoder(gemma_tokenizer), [*others, make(ENGINES[0], gemma_tokenizer, capacity=16)]


Encoders = tuple[Encoder, list[Encoder]]


def agree(encoders: Encoders, texts: Sequence[str]) -> None:
    reference, others = encoders
    right = rows(reference, texts)
    for encoder in others:
        assert rows(encoder, texts) == right, encoder.name


@given(texts=adversarial)
@settings(max_examples=200)
def test_every_encoder_gives_the_ids_of_the_reference(small_encoders: Encoders, texts: list[str]) -> None:
    agree(small_encoders, texts)


@given(texts=adversarial)
@settings(max_examples=200)
def test_every_encoder_gives_the_ids_of_the_reference_with_gemmas_tokenizer(
    gemma_encoders: Encoders, texts: list[str]
) -> None:
    agree(gemma_encoders, texts)


def test_texts_of_all_added_tokens_of_gemma_are_encoded_alike(
    gemma_tokenizer: Any, gemma_encoders: Encoders
) -> None:
    tokens = [token.content for token in gemma_tokenizer.get_added_tokens_decoder().values()]
    assert len(tokens) > 6000
    agree(gemma_encoders, [f"a{token}b {token} {token}{token[1:]}{token[:-1]}c" for token in tokens])


def test_the_reference_takes_a_special_token_in_a_text_for_text(plain_tokenizer: Any) -> None:
    encoder = reference_encoder(plain_tokenizer)
    special = [plain_tokenizer.token_to_id(token) for token in SPECIAL]
    found = rows(encoder, [*SPECIAL, "a<eos>b", "<unused0>"])
    assert all(ids and not set(ids) & set(special) for ids in found)
    assert found[-1] == [plain_tokenizer.token_to_id("<unused0>")]
    assert plain_tokenizer.encode("<eos>", add_special_tokens=False).ids == [special[1]], (
        "control text is as ever"
    )


def test_the_reference_encodes_as_the_tokenizer_alone_does(plain_tokenizer: Any) -> None:
    texts = ["we feel the night", "", " today\n\n", "é 漢字"]
    alone = [plain_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert rows(reference_encoder(plain_tokenizer), texts) == alone


def test_words_of_every_length_are_encoded_alike_and_told_apart(small_encoders: Encoders) -> None:
    words = [" " + letter * length for length in range(1, 100) for letter in "az"]
    changed = [word[:-1] + "e" for word in words]
    for _ in range(2):
        agree(small_encoders, [*words, *changed, *words[::-1]])


@pytest.mark.parametrize("name", ["tokenizers", *ENGINES])
def test_no_text_is_no_ids(plain_tokenizer: Any, name: str) -> None:
    encoder = make(name, plain_tokenizer)
    assert (rows(encoder, []), rows(encoder, ["", ""]), encoder.name) == ([], [[], []], name)


def test_texts_of_many_segments_and_endless_words_are_encoded_alike(small_encoders: Encoders) -> None:
    long = "we feel the night today. " * (3 * SEGMENT // 25)
    endless = [
        "night" * SEGMENT,
        "é" * SEGMENT,
        "漢字" * SEGMENT,
        "漢字を" * 3 + "day" * SEGMENT,
        "ab\n" * SEGMENT,
        " " * 3 * SEGMENT,
        "<" + "12" * SEGMENT,
    ]
    agree(small_encoders, ["", "day", long, "", "night" * 200, *endless, long[:1000], ""])


def test_a_word_seen_again_is_not_learned_again(plain_tokenizer: Any) -> None:
    cache = word_cache(parse_tokenizer(plain_tokenizer.to_str()), 64)
    before = cache.free_rows[0]
    rows(cache, ["the night the night", "the night"])
    assert cache.free_rows[0] == before - 3, "`the`, ` night` and ` the`"
    rows(cache, ["the night the night", " the"])
    assert cache.free_rows[0] == before - 3


def test_a_full_cache_is_emptied_before_the_next_text(plain_tokenizer: Any) -> None:
    cache = word_cache(parse_tokenizer(plain_tokenizer.to_str()), 16)
    texts = [" ".join(f"{letter}{other}" for other in "abcdefgh") for letter in "abcdefgh"]
    right = rows(reference_encoder(plain_tokenizer), texts)
    assert all(rows(cache, texts) == right for _ in range(3))
    assert 0 <= cache.free_rows[0] < 12


def test_names_are_reported_from_the_indentation_before_them(gemma_tokenizer: Any) -> None:
    cache = word_cache(parse_tokenizer(gemma_tokenizer.to_str()))
    texts = [
        f"x\n{' ' * depth}{word}" for depth in range(80) for word in ("name", "(", "1", "▁", "é", "\n", "")
    ]
    assert rows(cache, texts) == rows(reference_encoder(gemma_tokenizer), texts)
    assert sum(cache.splittable_runs) > 50, "or no run was split"


@pytest.mark.parametrize("name", ["tokenizers", *ENGINES])
def test_an_encoder_works_behind_a_fork(plain_tokenizer: Any, name: str) -> None:
    encoder, texts = make(name, plain_tokenizer), ["we feel the night", "<eos>", "é"] * 50
    right = rows(encoder, texts)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, b"same" if rows(encoder, texts) == right else b"other")
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as answer:
        assert answer.read() == b"same"
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("text", "ends"), [(b"a\xff", [2]), ("é".encode(), [1, 2])])
def test_bytes_that_are_not_utf8_are_refused_and_not_a_crash(
    plain_tokenizer: Any, text: bytes, ends: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"utf-8|within a character"):
        make("gigatoken", plain_tokenizer).encode(text, np.array(ends, np.int64))
