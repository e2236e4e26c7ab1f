"""A small tokenizer, conversations to pack, and the builder as a command."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gemfit.data.__main__ import main
from gemfit.data.pack.reader import file_digest, read_manifest
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel

WORDS = [
    "I",
    "you",
    "we",
    "feel",
    "think",
    "know",
    "the",
    "long",
    "day",
    "night",
    "sleep",
    "work",
    "rest",
    "today",
]
Build = Callable[..., tuple[int, str]]
WriteConversations = Callable[[Sequence[object]], Path]
WriteJob = Callable[..., Path]
Call = Callable[..., tuple[int, str]]
BLOCK = 2**15
"""Bytes of a block where a small input is to have many."""


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def random_conversation(
    rng: random.Random, exchanges: int = 2, words: int = 8, system: bool = True
) -> dict[str, Any]:
    """One conversation with ``exchanges`` questions and answers."""
    turns = [("user", "assistant")[turn % 2] for turn in range(2 * exchanges)]
    roles = ["system", *turns] if system else turns
    messages = [{"role": role, "content": sentence(rng, rng.randint(1, 2 * words))} for role in roles]
    return {"messages": messages}


def random_conversations(count: int, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        random_conversation(rng, exchanges=rng.randint(1, 9), system=rng.random() < 0.7, **options)
        for _ in range(count)
    ]


def command(job: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "gemfit.data", str(job), "--out", str(out)]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """400 entries, trained on words that the conversations use."""
    rng = random.Random(1)
    return train_tokenizer([sentence(rng, 12) + "\n\nuser assistant system" for _ in range(300)], 400)


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No block is there when a test begins."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GEMFIT_CACHE", str(folder))
    return folder


@pytest.fixture
def write_conversations_file(tmp_path: Path) -> WriteConversations:
    """Write values, or bytes as they are, one a line."""

    def write(lines: Sequence[object]) -> Path:
        path = tmp_path / "conversations.jsonl"
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path.write_bytes(b"".join(line + b"\n" for line in encoded))
        return path

    return write


@pytest.fixture
def write_job(tmp_path: Path, tokenizer_folder: Path) -> Callable[..., Path]:
    """Write the job of a source; further options go to ``DataRecipe``."""

    def write(
        source: object, *, scratch: int | None = None, tokenizer: Path = tokenizer_folder, **data: Any
    ) -> Path:
        scratch_model = ModelRecipe(scratch=ScratchModel(vocab_size=scratch)) if scratch else None
        model = scratch_model or ModelRecipe(id=str(tokenizer))
        recipe = Recipe(model=model, data=DataRecipe(source=str(source), **data))
        path = tmp_path / "job.json"
        path.write_text(make_pack_job(recipe).to_json())
        return path

    return write


@pytest.fixture
def build(
    tmp_path: Path, write_job: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> Iterator[Build]:
    """Pack a source into ``tmp_path/pack`` as the command does: exit status and what it printed."""
    before = signal.getsignal(signal.SIGTERM)

    def run(source: object, **options: Any) -> tuple[int, str]:
        job = write_job(source, **options)
        status = main([str(job), "--out", str(tmp_path / "pack")])
        return status, capsys.readouterr().err

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return random_conversations(1500, seed=3)


@pytest.fixture
def conversations_file(lines: list[dict[str, Any]], write_conversations_file: WriteConversations) -> Path:
    """The file of all ``lines``."""
    return write_conversations_file(lines)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemfit.data.jsonl.blocks.BLOCK_BYTES", BLOCK)


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Pack a job into ``tmp_path/NAME``: exit status and what was printed."""

    def run(job: Path, name: str, *options: str) -> tuple[int, str]:
        before = signal.getsignal(signal.SIGTERM)
        try:
            status = main([str(job), "--out", str(tmp_path / name), *options])
        finally:
            signal.signal(signal.SIGTERM, before)
        return status, capsys.readouterr().err

    return run


def content(folder: Path) -> dict[str, bytes]:
    """Every byte of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verified_manifest(folder: Path) -> PackManifest:
    """The manifest, after a check that every file is what it says."""
    manifest = read_manifest(folder)
    assert [file_digest(folder, folder / file.path) for file in manifest.files] == list(manifest.files)
    return manifest


def rows(folder: Path) -> dict[str, str]:
    """Digests of the files with rows."""
    files = verified_manifest(folder).files
    return {file.path: file.xxh3 for file in files if file.path.endswith((".arrow", ".npy"))} | {
        "conversations.arrow": ""  # in input order
    }
