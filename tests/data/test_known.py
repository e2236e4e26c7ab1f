"""A tokenizer that was loaded before is the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemfit.data.render.renderer import encode_control
from gemfit.data.tokenize import tokenizer_cache
from gemfit.data.tokenize.tokenizer import load_tokenizer, tokenizer_digest
from gemfit.data.tokenize.tokenizer_cache import KnownTokenizer, backend_json, digest_of, known_tokenizer


@pytest.fixture
def twice(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> KnownTokenizer:
    """The tokenizer of the tests, from the cache."""
    known_tokenizer(str(tokenizer_folder), "main")
    monkeypatch.setattr(tokenizer_cache, "load_tokenizer", None)
    found = known_tokenizer(str(tokenizer_folder), "main")
    assert isinstance(found, KnownTokenizer)
    return found


def test_it_has_the_same_ids_digest_and_files(
    twice: KnownTokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    loaded = load_tokenizer(str(tokenizer_folder))
    assert digest_of(twice) == tokenizer_digest(loaded) == tokenizer_digest(twice)
    assert backend_json(twice) == backend_json(loaded)
    for name in ("bos_token", "eos_token", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(twice, name) == getattr(loaded, name)
    assert twice.chat_template == loaded.chat_template
    twice.save_pretrained(str(tmp_path / "known"))
    loaded.save_pretrained(str(tmp_path / "loaded"))
    files = {path.name for path in (tmp_path / "loaded").iterdir()}
    assert len(files) >= 3
    for name in files:
        assert (tmp_path / "known" / name).read_bytes() == (tmp_path / "loaded" / name).read_bytes()


def test_templates_are_rendered_by_the_library(
    twice: KnownTokenizer, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_cache, "load_tokenizer", load_tokenizer)
    messages = [{"role": "user", "content": " Hello "}, {"role": "assistant", "content": "Hi"}]
    wanted = load_tokenizer(str(tokenizer_folder)).apply_chat_template(messages, tokenize=False)
    assert twice.apply_chat_template(messages, tokenize=False) == wanted


def test_control_text_is_encoded_once_and_then_known(
    twice: KnownTokenizer, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, texts = load_tokenizer(str(tokenizer_folder)), ["<bos>", "<|user|>", "<eos>\n", ""]
    wanted = [encode_control(loaded, text).tolist() for text in texts]
    assert [encode_control(twice, text).tolist() for text in texts] == wanted
    twice.forget()
    monkeypatch.setattr(tokenizer_cache, "Tokenizer", None)  # so that it cannot be loaded again
    assert [encode_control(twice, text).tolist() for text in texts] == wanted
    with pytest.raises(AttributeError):
        encode_control(twice, "another text")


def test_what_is_known_of_control_text_may_be_damaged(twice: KnownTokenizer) -> None:
    right = encode_control(twice, "<eos>\n").tolist()
    (twice.folder / "control.json").write_text('{"<eos>')
    assert encode_control(twice, "<eos>\n").tolist() == right


def test_a_tokenizer_that_was_changed_is_another(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    known_tokenizer(str(tokenizer_folder), "main").save_pretrained(str(folder))
    before = digest_of(known_tokenizer(str(folder), "main"))
    settings: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    settings["model"]["byte_fallback"] = False
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    assert digest_of(known_tokenizer(str(folder), "main")) != before
