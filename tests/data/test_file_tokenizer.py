"""A tokenizer read from its files has the ids, digest and special tokens that transformers gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import GemmaTokenizer

from gemfit.data.render.renderer import encode_contents, encode_control
from gemfit.data.tokenize import file_tokenizer
from gemfit.data.tokenize.file_tokenizer import (
    FileTokenizer,
    backend_json,
    open_tokenizer,
    tokenizer_digest_of,
)
from gemfit.data.tokenize.tokenizer import load_tokenizer, tokenizer_digest
from gemfit.errors import UserError

TEMPLATE = "chat_template.jinja"


@pytest.fixture
def opened(tokenizer_folder: Path) -> FileTokenizer:
    """The tokenizer of the tests, from its files."""
    found = open_tokenizer(str(tokenizer_folder))
    assert isinstance(found, FileTokenizer)
    return found


def control_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [words.tolist() for words in encode_control(tokenizer, texts)]


@pytest.fixture
def gemma_folder(tokenizer_folder: Path, tmp_path: Path) -> Path:
    """A tokenizer of Gemma's class, with an unmarked <mask> as in Gemma's own file."""
    folder = tmp_path / "gemma"
    load_tokenizer(str(tokenizer_folder)).save_pretrained(str(folder))
    written = json.loads((folder / "tokenizer.json").read_text())
    mask = {**written["added_tokens"][0], "id": 5_000, "content": "<mask>", "special": False}
    mask["id"] = max(written["model"]["vocab"].values()) + 1
    written["model"]["vocab"]["<mask>"] = mask["id"]
    written["added_tokens"].append(mask)
    written["pre_tokenizer"] = {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(written))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    decoder = {str(token["id"]): token for token in written["added_tokens"]}
    config |= {"tokenizer_class": "GemmaTokenizer", "added_tokens_decoder": decoder}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_it_has_the_same_ids_digest_and_special_tokens(opened: FileTokenizer, tokenizer_folder: Path) -> None:
    loaded = load_tokenizer(str(tokenizer_folder))
    assert tokenizer_digest_of(opened) == tokenizer_digest(loaded) == tokenizer_digest(opened)
    assert json.loads(backend_json(opened)) == json.loads(backend_json(loaded))
    for name in ("bos_token", "eos_token", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(opened, name) == getattr(loaded, name)
    assert opened.chat_template == loaded.chat_template


def test_gemmas_class_marks_the_mask_token_as_transformers_does(gemma_folder: Path) -> None:
    loaded, opened = load_tokenizer(str(gemma_folder)), open_tokenizer(str(gemma_folder))
    assert isinstance(loaded, GemmaTokenizer)
    assert isinstance(opened, FileTokenizer)
    assert tokenizer_digest_of(opened) == tokenizer_digest(loaded)
    texts = ["a <mask> b", "<bos>x", " two  spaces \n", "Ünï 漢字"]
    for mine, theirs in zip(encode_contents(opened, texts), encode_contents(loaded, texts), strict=True):
        assert mine.tolist() == theirs.tolist()


def test_what_it_saves_is_the_same_tokenizer(opened: FileTokenizer, tmp_path: Path) -> None:
    opened.save_pretrained(str(tmp_path / "saved"))
    again = open_tokenizer(str(tmp_path / "saved"))
    assert again.digests == opened.digests
    assert tokenizer_digest_of(again) == tokenizer_digest_of(opened)


def test_templates_are_rendered_by_transformers(opened: FileTokenizer, tokenizer_folder: Path) -> None:
    messages = [{"role": "user", "content": " Hello "}, {"role": "assistant", "content": "Hi"}]
    wanted = load_tokenizer(str(tokenizer_folder)).apply_chat_template(messages, tokenize=False)
    assert opened.apply_chat_template(messages, tokenize=False) == wanted


def test_a_second_build_needs_no_backend_for_digest_and_control_text(
    opened: FileTokenizer, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, texts = load_tokenizer(str(tokenizer_folder)), ["<bos>", "<|user|>", "<eos>\n", ""]
    wanted = control_ids(loaded, texts)
    assert control_ids(opened, texts) == wanted
    digest, eos = opened.digest, opened.eos_token_id
    again = open_tokenizer(str(tokenizer_folder))
    monkeypatch.setattr(file_tokenizer, "Tokenizer", None)  # so that it cannot be loaded again
    assert control_ids(again, texts) == wanted
    assert (again.digest, again.eos_token_id) == (digest, eos)
    with pytest.raises(UserError, match="NoneType"):  # as `Tokenizer` is None
        control_ids(again, ["another text"])


def test_values_of_one_call_are_written_to_the_cache_together(
    opened: FileTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def count(path: Path, content: str) -> None:
        assert path == opened._cache_file
        written.append(content)

    monkeypatch.setattr(file_tokenizer, "write_atomic", count)
    opened.control_ids(["<bos>", "<|user|>", "<eos>\n"])
    assert len(written) == 1
    assert None not in (opened.bos_token_id, opened.eos_token_id)
    assert len(written) == 2
    opened.control_ids(["<eos>\n", "<bos>"])
    assert len(written) == 2


def test_a_damaged_cache_file_is_written_again(opened: FileTokenizer, tokenizer_folder: Path) -> None:
    right = control_ids(opened, ["<eos>\n"])
    opened._cache_file.write_text('{"<eos>')
    again = open_tokenizer(str(tokenizer_folder))
    assert control_ids(again, ["<eos>\n"]) == right


def test_a_tokenizer_that_was_changed_is_another(opened: FileTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    opened.save_pretrained(str(folder))
    changing = open_tokenizer(str(folder))
    settings: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    settings["model"]["byte_fallback"] = False
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    assert tokenizer_digest_of(open_tokenizer(str(folder))) != opened.digest
    with pytest.raises(UserError, match="have changed"):
        changing.save_pretrained(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": None},
        {"chat_template": [{"name": "default", "template": "x"}]},
        {"eos_token": None},
    ],
)
def test_what_only_transformers_can_load_is_left_to_it(
    opened: FileTokenizer, tmp_path: Path, change: dict[str, Any]
) -> None:
    opened.save_pretrained(str(tmp_path / "other"))
    (tmp_path / "other" / "chat_template.jinja").unlink(missing_ok=True)
    file = tmp_path / "other" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert file_tokenizer.read_tokenizer(tmp_path / "other") is None


def test_transformers_is_not_imported(tokenizer_folder: Path) -> None:
    code = (
        "import sys; from gemfit.data.tokenize.file_tokenizer import open_tokenizer\n"
        f"t = open_tokenizer({str(tokenizer_folder)!r}); t.digest; t.control_ids(['<eos>']); t.pad_token_id\n"
        "assert not {'transformers', 'torch'} & sys.modules.keys(), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DAMAGED: dict[str, Any] = {
    "empty": {"tokenizer.json": ""},
    "a list": {"tokenizer.json": "[]"},
    "deep": {"tokenizer.json": "[" * 100_000},
    "no UTF-8": {"tokenizer.json": b"\xff\xfe"},
    "another model": {"tokenizer.json": '{"model": {"type": "Evil"}}'},
    "settings that are a list": {"tokenizer_config.json": "[]"},
    "deep settings": {"tokenizer_config.json": "[" * 100_000},
    "settings that are empty": {"tokenizer_config.json": ""},
    "a class that is a number": {"tokenizer_config.json": '{"tokenizer_class": 7}'},
    "an EOS token without text": {"tokenizer_config.json": '{"eos_token": {"x": 1}}'},
    "special tokens that are a list": {"special_tokens_map.json": "[1]"},
    "a template that is a list of numbers": {
        "tokenizer_config.json": '{"chat_template": [1]}',
        TEMPLATE: None,
    },
}


@pytest.mark.parametrize("files", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named(files: dict[str, Any], tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    load_tokenizer(str(tokenizer_folder)).save_pretrained(str(folder))
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="damaged"):
        _ = open_tokenizer(str(folder)).backend_tokenizer
    with pytest.raises(UserError, match=r"no tokenizer can be loaded from .*damaged"):
        load_tokenizer(str(folder))


def test_an_eos_token_that_is_not_in_the_vocabulary_is_named(tokenizer_folder: Path, tmp_path: Path) -> None:
    load_tokenizer(str(tokenizer_folder)).save_pretrained(str(tmp_path))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<nowhere>"}))
    with pytest.raises(UserError, match=r"the EOS token '<nowhere>' is not in tokenizer\.json"):
        _ = open_tokenizer(str(tmp_path)).eos_token_id


def test_of_several_templates_the_default_is_used(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folder))
    tokenizer.chat_template = {"default": "{{ 'a' }}", "tool_use": "{{ 'b' }}"}
    tokenizer.save_pretrained(str(tmp_path))
    assert load_tokenizer(str(tmp_path)).chat_template == "{{ 'a' }}"
