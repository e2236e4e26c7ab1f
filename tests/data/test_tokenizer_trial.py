"""Tokenizers whose patterns never come to an end, or make the library give up: errors that name the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from gemfit.core.rust_panic import RustPanicError, panics_as_errors
from gemfit.data.tokenize import tokenizer_trial
from gemfit.data.tokenize.file_tokenizer import open_tokenizer
from gemfit.data.tokenize.hf_tokenizers import reference_encoder
from gemfit.data.tokenize.tokenizer import load_tokenizer
from gemfit.data.tokenize.tokenizer_trial import check_tokenizer_file
from gemfit.errors import UserError

LOADERS: tuple[Callable[[str], Any], ...] = (
    load_tokenizer,
    lambda name: open_tokenizer(name).backend_tokenizer,
)
NAME = "tokenizer.json"


@pytest.fixture
def folder(tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tokenizer to change, and a cache of this test."""
    monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / "cache"))
    load_tokenizer(str(tokenizer_folder)).save_pretrained(str(tmp_path / "tokenizer"))
    return tmp_path / "tokenizer"


def split_by(folder: Path, pattern: str) -> None:
    """Let the tokenizer split texts by a regular expression."""
    fields = json.loads((folder / NAME).read_text())
    pattern_of = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    (folder / NAME).write_text(json.dumps(fields | {"pre_tokenizer": pattern_of}))


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)+$"])
@pytest.mark.parametrize("load", LOADERS)
def test_a_pattern_without_an_end_is_named(load: Callable[[str], Any], pattern: str, folder: Path) -> None:
    split_by(folder, pattern)
    with pytest.raises(UserError, match=NAME) as raised:
        load(str(folder))
    assert repr(pattern) in str(raised.value)


MANY = {"id": "<bos>", "ids": [2] * 10_000, "tokens": ["<bos>"] * 10_000}
EXPLOSIONS: dict[str, dict[str, Any]] = {
    "prepended": {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}},
    "replaced": {"normalizer": {"type": "Replace", "pattern": {"String": "q"}, "content": "x" * 100_000}},
    "rare pattern": {"normalizer": {"type": "Replace", "pattern": {"Regex": "ψ"}, "content": "x" * 100_000}},
    "doubled again and again": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": "q"}, "content": "qq"}] * 20,
        }
    },
    "tokens of a post-processor": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": MANY},
        }
    },
    "decoded": {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "x" * 1_000_000}},
}


@pytest.mark.parametrize("rules", EXPLOSIONS.values(), ids=EXPLOSIONS)
def test_rules_that_write_far_more_than_they_read_are_named(rules: dict[str, Any], folder: Path) -> None:
    path = folder / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | rules))
    with pytest.raises(UserError, match=f"{path}: .*; change its rules") as raised:
        check_tokenizer_file(path)
    assert len(str(raised.value)) < 1000


def test_rules_in_use_pass_their_trial(folder: Path) -> None:
    path, fields = folder / NAME, json.loads((folder / NAME).read_text())
    marks = [
        {"type": "Replace", "pattern": {"String": mark}, "content": f" [{mark}] "} for mark in "0123456789"
    ]
    norms = [{"type": "NFKD"}, {"type": "Prepend", "prepend": "▁"}, *marks, fields["normalizer"]]
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    padding = {
        "strategy": {"Fixed": 10**12},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    changed = {"normalizer": {"type": "Sequence", "normalizers": norms}, "padding": padding}
    path.write_text(json.dumps(fields | changed | {"pre_tokenizer": byte_level}))
    check_tokenizer_file(path)


def test_escapes_do_not_hide_a_pattern(folder: Path) -> None:
    split_by(folder, "(a+)+b")
    path = folder / NAME
    path.write_text(path.read_text().replace('"Regex"', r'"Reg\u0065x"'))
    assert "Regex" in json.loads(path.read_text())["pre_tokenizer"]["pattern"]
    with pytest.raises(UserError, match=NAME):
        check_tokenizer_file(path)


@pytest.mark.parametrize("limit", ["CPU_SECONDS", "SECONDS"])
def test_a_trial_ends_at_its_limits(
    limit: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = tmp_path / "endless.py"
    cpu = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass"
    endless.write_text(cpu if limit == "CPU_SECONDS" else "import time; time.sleep(1000)")
    monkeypatch.setattr(tokenizer_trial, "SCRIPT", endless)
    if limit == "SECONDS":
        monkeypatch.setattr(tokenizer_trial, "SECONDS", 1)
    split_by(folder, "x")
    with pytest.raises(UserError, match=r"takes it too long \(.*\); change its rules \('x'"):
        check_tokenizer_file(folder / NAME)


def test_patterns_in_use_are_tried_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []
    try_out = tokenizer_trial._try

    def record(path: Path) -> str | None:
        tried.append(path)
        return try_out(path)

    monkeypatch.setattr(tokenizer_trial, "_try", record)
    for load in LOADERS:
        load(str(folder))
    assert not tried, "patterns of our own need no trial"
    split_by(folder, r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    for load in LOADERS * 2:
        load(str(folder))
    assert tried == [folder / NAME]


def make_sparse(path: Path) -> None:
    """A terabyte that takes no place on disk."""
    path.touch()
    os.truncate(path, 2**40)


THINGS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "too large": make_sparse,
}


@pytest.mark.parametrize("make", THINGS.values(), ids=THINGS)
@pytest.mark.parametrize("load", LOADERS)
def test_what_is_no_tokenizer_file_is_named(
    load: Callable[[str], Any], make: Callable[[Path], object], folder: Path
) -> None:
    (folder / NAME).unlink()
    make(folder / NAME)
    with pytest.raises(UserError, match=str(folder)):
        load(str(folder))


class PanicException(BaseException):
    """As PyO3 calls it."""


def test_a_panic_is_an_error_and_an_interrupt_is_not() -> None:
    with pytest.raises(RustPanicError, match="no such id"), panics_as_errors():
        raise PanicException("no such id")
    with pytest.raises(KeyboardInterrupt), panics_as_errors():
        raise KeyboardInterrupt


def test_a_text_that_the_library_gives_up_on_is_an_error(folder: Path) -> None:
    split_by(folder, "(a+)+b")
    encoder = reference_encoder(Tokenizer.from_file(str(folder / NAME)))
    text = 5000 * b"a"
    with pytest.raises(UserError, match=r"model\.tokenizer: fails on a text"):
        encoder.encode(text, np.array([len(text)]))
