"""Cached blocks: added to, missing, damaged, too many, or made by an engine that differs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemfit.data.build import setup
from gemfit.data.pack.reader import read_manifest
from gemfit.data.tokenize import EngineMismatch, reference_encoder
from gemfit.data.tokenize.hf_tokenizers import Reference

from .conftest import BLOCK, Call, WriteConversations, WriteJob, content, random_conversations, rows

pytestmark = pytest.mark.usefixtures("small_blocks")


def test_lines_that_are_added_cost_only_their_blocks(
    conversations_file: Path, write_job: WriteJob, call: Call, tmp_path: Path
) -> None:
    blocks = -(-conversations_file.stat().st_size // BLOCK)
    assert call(write_job(conversations_file, seq_len=128), "before")[0] == 0
    with conversations_file.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in random_conversations(20, seed=99))
    grown = -(-conversations_file.stat().st_size // BLOCK)
    status, printed = call(write_job(conversations_file, seq_len=128), "after")
    assert status == 0
    assert f"{blocks - 1} of {grown} blocks were in the cache" in printed
    # What decides only over whole conversations makes no block again.
    status, printed = call(write_job(conversations_file, seq_len=128, validation_share=0.3), "other")
    assert status == 0
    assert f"{grown} of {grown} blocks were in the cache" in printed
    assert "were in the cache" not in call(write_job(conversations_file, seq_len=256), "longer")[1]


def test_a_block_that_is_missing_at_the_merge_names_its_shard(
    conversations_file: Path, write_job: WriteJob, call: Call
) -> None:
    job = write_job(conversations_file)
    status, printed = call(job, "pack", "--merge")
    assert status == 2
    assert "run `gemfit pack … --shard i/n` for i from 1 to n" in printed
    assert call(job, "pack", "--shard", "1/3")[0] == 0
    assert call(job, "pack", "--shard", "3/3")[0] == 0
    status, printed = call(job, "pack", "--merge")
    assert status == 2
    assert "blocks are missing; run again with --shard 2/3, then --merge" in printed


def test_a_damaged_block_is_made_again(
    conversations_file: Path, write_job: WriteJob, call: Call, cache: Path, tmp_path: Path
) -> None:
    job = write_job(conversations_file, seq_len=128)
    assert call(job, "first")[0] == 0
    blocks = sorted(cache.glob("blocks/*/*.block"))
    assert len(blocks) > 5
    whole = blocks[0].read_bytes()
    blocks[0].write_bytes(whole[:-5] + b"?" + whole[-4:])
    blocks[1].write_bytes(blocks[1].read_bytes()[:-64])
    blocks[2].write_bytes(b"")
    status, printed = call(job, "again")
    assert status == 0
    assert f"{len(blocks) - 3} of {len(blocks)} blocks were in the cache" in printed
    assert content(tmp_path / "first") == content(tmp_path / "again")


def test_the_block_cache_has_a_bound(
    conversations_file: Path, write_job: WriteJob, call: Call, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(write_job(conversations_file, seq_len=128), "first")[0] == 0
    old = set(cache.glob("blocks/*/*.block"))
    size = sum(block.stat().st_size for block in old)
    for block in old:
        os.utime(block, (1, 1))
    monkeypatch.setenv("GEMFIT_BLOCKS_GIB", str(1.2 * size / 2**30))
    assert call(write_job(conversations_file, seq_len=256), "second")[0] == 0
    left = set(cache.glob("blocks/*/*.block"))
    assert len(left - old) == len(old)
    assert 0 < len(left & old) < len(old)
    monkeypatch.setenv("GEMFIT_BLOCKS_GIB", "0")
    assert call(write_job(conversations_file, seq_len=256), "third")[0] == 0
    assert not list(cache.glob("blocks/*/*.block"))
    monkeypatch.setenv("GEMFIT_BLOCKS_GIB", "much")
    status, printed = call(write_job(conversations_file, seq_len=64), "fourth")
    assert status == 2
    assert "GEMFIT_BLOCKS_GIB is 'much'; write a number" in printed


def test_cached_tables_that_are_wrong_are_found_by_the_reference_check_and_removed(
    conversations_file: Path,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(setup, "WORTH_COMPILING_BYTES", 0)
    job = write_job(conversations_file, seq_len=128)
    assert call(job, "right")[0] == 0
    assert read_manifest(tmp_path / "right").engine == "word cache"
    (tables,) = cache.glob("words/*.npz")
    with np.load(tables) as file:
        arrays = dict(file)
    arrays["merged"] ^= 1
    np.savez(tables, **arrays)
    for block in cache.glob("blocks/*/*.block"):
        block.unlink()
    status, printed = call(job, "pack")
    assert status == 0
    assert "word cache differs from tokenizers at token " in printed
    assert "the blocks that word cache made are made again by tokenizers\n" in printed
    assert read_manifest(tmp_path / "pack").engine == "tokenizers"
    assert not tables.exists()
    assert call(job, "again")[0] == 0
    right, *others = (rows(tmp_path / name) for name in ("right", "pack", "again"))
    assert all(other == right for other in others)


def test_blocks_of_an_engine_that_differs_are_made_again_by_the_reference(
    lines: list[dict[str, Any]],
    conversations_file: Path,
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(setup, "WORTH_COMPILING_BYTES", 0)
    job = write_job(conversations_file, seq_len=128)
    assert call(job, "right", "--engine", "tokenizers")[0] == 0
    for block in cache.glob("blocks/*/*.block"):
        block.unlink()

    class Wrong(Reference):
        def encode(self, text: bytes, ends: Any) -> Any:
            if b"Last words" in text:
                raise EngineMismatch("fast engine differs on 'Last words'")
            return super().encode(text, ends)

    def chosen(tokenizer_json: Any, sample: Any, say: Any, *, engine: str, tokenizer: Any) -> Any:
        reference = reference_encoder(tokenizer)
        return reference if engine == "tokenizers" else Wrong(tokenizer.backend_tokenizer, "fast engine")

    monkeypatch.setattr("gemfit.data.build.setup.select_encoder", chosen)
    path = write_conversations_file([*lines, {"messages": [{"role": "user", "content": "Last words"}]}])
    status, printed = call(write_job(path, seq_len=128), "pack")
    assert status == 0
    assert "the blocks that fast engine made are made again by tokenizers\n" in printed
    assert read_manifest(tmp_path / "pack").engine == "tokenizers"
