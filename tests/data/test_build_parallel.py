"""Workers, shards, interrupted builds and bad lines: none of them changes a byte, and none is lost."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemfit.data.build import block_pipeline, map_blocks
from gemfit.data.pack.reader import read_manifest
from gemfit.schemas.pack_job import PackJob

from .conftest import BLOCK, Call, WriteConversations, WriteJob, content, rows

pytestmark = pytest.mark.usefixtures("small_blocks")


def test_workers_and_shards_change_no_byte(
    conversations_file: Path, write_job: WriteJob, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.data.build.shards.SHARD_BYTES", 8 * 128 * 50)
    job = write_job(conversations_file, seq_len=128, scratch=500)
    packs = []
    for name, workers in (("one", "1"), ("four", "4")):
        monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / f"cache-{name}"))
        assert call(job, name, "--workers", workers)[0] == 0
        packs.append(content(tmp_path / name))
    monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / "cache-shards"))
    for shard in (3, 1, 4, 2):
        assert call(job, "merged", "--shard", f"{shard}/4", "--workers", "1")[0] == 0
        assert not (tmp_path / "merged").exists()
    assert call(job, "merged", "--merge", "--workers", "2")[0] == 0
    packs.append(content(tmp_path / "merged"))
    assert packs[0] == packs[1] == packs[2]
    assert len([name for name in packs[0] if name.startswith("train/data-")]) > 10


def test_order_of_lines_and_files_does_not_change_the_rows(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    call: Call,
    tmp_path: Path,
) -> None:
    copies = [*lines, *lines[:40]]
    assert (
        call(write_job(write_conversations_file(copies), seq_len=128, validation_share=0.2), "plain")[0] == 0
    )
    shuffled = random.Random(0).sample(copies, len(copies))
    folder = tmp_path / "conversations"
    folder.mkdir()
    for name, part in (("a.jsonl", shuffled[:900]), ("b.jsonl", shuffled[900:1000])):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in part))
    rest = "".join(json.dumps(line) + "\n" for line in shuffled[1000:])
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(rest.encode()))
    assert call(write_job(folder, seq_len=128, validation_share=0.2), "shuffled")[0] == 0
    assert rows(tmp_path / "plain") == rows(tmp_path / "shuffled")


KILLED = """
import sys, time
from gemfit.data.jsonl import blocks
from gemfit.data.build import map_blocks
from gemfit.data.__main__ import main
blocks.BLOCK_BYTES = int(sys.argv[3])
fast = map_blocks.make_block
def slow(*arguments):
    time.sleep(0.3)
    return fast(*arguments)
map_blocks.make_block = slow
sys.exit(main([sys.argv[1], "--out", sys.argv[2], "--workers", "2"]))
"""


@pytest.fixture
def begun(cache: Path, tmp_path: Path) -> Callable[[Path], tuple[subprocess.Popen[str], list[int]]]:
    """Start a build in a process of its own; it, and its workers, when some blocks are in the cache."""

    def start(job: Path) -> tuple[subprocess.Popen[str], list[int]]:
        argv = [sys.executable, "-c", KILLED, str(job), str(tmp_path / "packs/pack"), str(BLOCK)]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 100
        while len(list(cache.glob("blocks/*/*.block"))) < 3:
            assert process.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()]
        assert len(workers) >= 2, "two, and those that compile kernels, where that is still to be done"
        return process, workers

    return start


def gone(workers: list[int]) -> bool:
    """Whether none of these is left after some seconds, except as a zombie."""
    deadline = time.monotonic() + 10
    while any(map(_lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(_lives, workers))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_build_goes_on_after_it_was_killed(
    begun: Callable[..., Any],
    conversations_file: Path,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = write_job(conversations_file, seq_len=128)
    process, workers = begun(job)
    process.kill()
    process.communicate(timeout=60)
    assert gone(workers)
    found = len(list(cache.glob("blocks/*/*.block")))
    status, printed = call(job, "resumed")
    assert status == 0
    blocks = -(-PackJob.read(job).files[0].bytes // BLOCK)
    assert f"{found} of {blocks} blocks were in the cache\n" in printed
    assert list(cache.rglob(".*")) == []
    monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / "another"))
    assert "blocks were in the cache" not in call(job, "whole")[1]
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_cached_blocks_only(
    number: signal.Signals,
    begun: Callable[..., Any],
    conversations_file: Path,
    write_job: WriteJob,
    tmp_path: Path,
) -> None:
    process, workers = begun(write_job(conversations_file, seq_len=128))
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed.endswith(
        "interrupted; the blocks that are done stay in the cache, and the next build goes on from them\n"
    )
    assert "Traceback" not in printed
    assert gone(workers)
    assert list((tmp_path / "packs").iterdir()) == []


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_first_bad_line_is_reported_whatever_the_number_of_workers(
    workers: str,
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    call: Call,
) -> None:
    some = [json.dumps(line).encode() for line in lines]
    for place in (1400, 700, 701, 1300):
        some[place - 1] = b'{"messages": 3}'
    path = write_conversations_file(some)
    status, printed = call(write_job(path), "pack", "--workers", workers)
    assert status == 2
    assert f"error: {path}:700: `messages` is 3, expected a list" in printed
    # Blocks that were made under `skip` do not hide it.
    assert call(write_job(path, on_error="skip"), "skipped", "--workers", workers)[0] == 0
    status, printed = call(write_job(path), "pack", "--workers", workers)
    assert status == 2
    assert f"error: {path}:700: " in printed


def test_skipped_lines_are_listed_with_their_place(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    call: Call,
    tmp_path: Path,
) -> None:
    some = [json.dumps(line).encode() for line in lines]
    for place in (1400, 700, 701):
        some[place - 1] = b"{}"
    some[2] = b""
    path = write_conversations_file(some)
    assert call(write_job(path, on_error="skip"), "pack")[0] == 0
    listed = [json.loads(line) for line in (tmp_path / "pack/rejected.jsonl").read_text().splitlines()]
    assert [one["place"] for one in listed] == [f"{path}:{place}" for place in (700, 701, 1400)]
    assert [one["line"] for one in listed] == [700, 701, 1400]
    losses = read_manifest(tmp_path / "pack").losses
    assert (losses.lines_read, losses.rejected_lines, losses.blank_lines) == (1500, 3, 1)


def test_what_comes_before_the_end_of_a_broken_file_is_reported_first(
    lines: list[dict[str, Any]], write_job: WriteJob, call: Call, tmp_path: Path
) -> None:
    some = [json.dumps(line).encode() + b"\n" for line in lines]
    path = tmp_path / "conversations.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(some))[:-1000])
    status, printed = call(write_job(path), "pack")
    assert status == 2
    assert f"error: {path}:" in printed
    assert "cannot be read further" in printed
    some[1000] = b"{}\n"
    path.write_bytes(gzip.compress(b"".join(some))[:-1000])
    status, printed = call(write_job(path), "pack")
    assert status == 2
    assert f"error: {path}:1001: there is no `messages`" in printed


def test_a_worker_that_dies_is_named(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = block_pipeline.make_block

    def killed(text: bytes, *rest: Any) -> Any:
        if b"Last words" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        return made(text, *rest)

    monkeypatch.setattr(map_blocks, "make_block", killed)
    last = {"messages": [{"role": "user", "content": "Last words"}]}
    path = write_conversations_file([*lines[:700], last, *lines[700:]])
    status, printed = call(write_job(path), "pack", "--workers", "2")
    assert status == 2
    assert "was killed by SIGKILL (is memory short? Try fewer --workers) while it was at" in printed
    assert f"{path}, bytes " in printed
