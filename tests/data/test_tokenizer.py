"""Tokenizers: trained the same every time, and named by their content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemfit.data.tokenize.tokenizer import (
    SPECIAL,
    load_tokenizer,
    pad_id,
    short_words,
    tokenizer_digest,
    train_tokenizer,
)
from gemfit.errors import UserError

TEXTS = ["we rest today and we sleep at night", "I feel the long day.\n\nAnd the night é", "漢字 👍"] * 20


def test_a_digest_survives_saving_and_loading(tokenizer: Any, tokenizer_folder: Path) -> None:
    assert tokenizer_digest(load_tokenizer(str(tokenizer_folder))) == tokenizer_digest(tokenizer)


def test_a_digest_knows_vocabulary_template_and_special_ids() -> None:
    digests = {tokenizer_digest(train_tokenizer(TEXTS, 320)), tokenizer_digest(train_tokenizer(TEXTS, 330))}
    changed = train_tokenizer(TEXTS, 320)
    changed.chat_template = "{{ messages }}"
    digests.add(tokenizer_digest(changed))
    changed = train_tokenizer(TEXTS, 320)
    changed.pad_token = "<unk>"
    digests.add(tokenizer_digest(changed))
    assert len(digests) == 4


def test_encoding_with_padding_and_truncation_does_not_change_a_digest(tokenizer: Any) -> None:
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == before


def test_the_same_text_trains_the_same_tokenizer_in_every_process() -> None:
    program = (
        "from gemfit.data.tokenize.tokenizer import *\n"
        f"print(tokenizer_digest(train_tokenizer({TEXTS!r}, 340)))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    ]
    assert runs[0] == runs[1] == tokenizer_digest(train_tokenizer(TEXTS, 340)) + "\n"


@pytest.mark.parametrize("size", [300, 400, 1000])
def test_the_vocabulary_never_exceeds_its_size(size: int) -> None:
    many_characters = "".join(map(chr, range(0x4E00, 0x5200)))
    tokenizer = train_tokenizer([*TEXTS, many_characters, many_characters], size)
    assert 262 < len(tokenizer) <= size
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
    assert [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL] == list(range(len(SPECIAL)))


def test_text_comes_back_to_the_letter_even_where_it_was_never_seen(tokenizer: Any) -> None:
    for text in (" two  spaces ", "Ünïcødé 漢字 👍🏽", "\n\n\tx\r\n", "<0x41>", ""):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_padding_uses_eos_where_there_is_no_pad_token(tokenizer: Any) -> None:
    assert pad_id(tokenizer) == tokenizer.pad_token_id == 0
    other = train_tokenizer(TEXTS, 300)
    other.pad_token = None
    assert pad_id(other) == other.eos_token_id


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no tokenizer can be loaded from '{tmp_path}'.*tokenizer.json"):
        load_tokenizer(str(tmp_path))


def test_words_of_thousands_of_characters_are_learned_from_in_parts() -> None:
    text = short_words("we rest\n" + "x" * 2500 + " today")
    assert text == "we rest\n" + " ".join(["x" * 1000, "x" * 1000, "x" * 500]) + " today"
    assert short_words(text) == text
    assert "xx" in train_tokenizer(["x" * 2500], 320).get_vocab()
