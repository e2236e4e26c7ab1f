"""Workers, shards, resumed and repeated builds: none of them changes a byte, and none is lost."""

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

import numpy as np
import pytest

from gemfit.data.__main__ import main
from gemfit.data.building import make_parts
from gemfit.data.encode import EngineMismatch, reference_encoder
from gemfit.data.encode.reference import Reference
from gemfit.data.rendering import block
from gemfit.data.store import read_manifest, verify_pack
from gemfit.packing import PackJob

from .conftest import WriteTalks, talks

WriteJob = Callable[..., Path]
BLOCK = 2**15
Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return talks(1500, seed=3)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemfit.data.reading.blocks.BLOCK_BYTES", BLOCK)


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


def rows(folder: Path) -> dict[str, str]:
    """Digests of the files with rows."""
    files = verify_pack(folder).files
    return {file.path: file.xxh3 for file in files if file.path.endswith((".arrow", ".npy"))} | {
        "conversations.arrow": ""  # in input order
    }


def test_workers_and_shards_change_no_byte(
    lines: list[dict[str, Any]],
    write_talks: WriteTalks,
    write_job: WriteJob,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemfit.data.building.shards.SHARD_BYTES", 8 * 128 * 50)
    job = write_job(write_talks(lines), seq_len=128, scratch=500)
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
    lines: list[dict[str, Any]], write_talks: WriteTalks, write_job: WriteJob, call: Call, tmp_path: Path
) -> None:
    copies = [*lines, *lines[:40]]
    assert call(write_job(write_talks(copies), seq_len=128, validation_share=0.2), "plain")[0] == 0
    shuffled = random.Random(0).sample(copies, len(copies))
    folder = tmp_path / "talks"
    folder.mkdir()
    for name, part in (("a.jsonl", shuffled[:900]), ("b.jsonl", shuffled[900:1000])):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in part))
    rest = "".join(json.dumps(line) + "\n" for line in shuffled[1000:])
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(rest.encode()))
    assert call(write_job(folder, seq_len=128, validation_share=0.2), "shuffled")[0] == 0
    assert rows(tmp_path / "plain") == rows(tmp_path / "shuffled")


KILLED = """
import sys, time
from gemfit.data.reading import blocks
from gemfit.data.building import make_parts
from gemfit.data.__main__ import main
blocks.BLOCK_BYTES = int(sys.argv[3])
fast = make_parts.make_part
def slow(*arguments):
    time.sleep(0.3)
    return fast(*arguments)
make_parts.make_part = slow
sys.exit(main([sys.argv[1], "--out", sys.argv[2], "--workers", "2"]))
"""


@pytest.fixture
def begun(cache: Path, tmp_path: Path) -> Callable[[Path], tuple[subprocess.Popen[str], list[int]]]:
    """Start a build in a process of its own; it, and its workers, when some parts are there."""

    def start(job: Path) -> tuple[subprocess.Popen[str], list[int]]:
        argv = [sys.executable, "-c", KILLED, str(job), str(tmp_path / "packs/pack"), str(BLOCK)]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 100
        while len(list(cache.glob("parts/*/*.part"))) < 3:
            assert process.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()]
        assert len(workers) == 3, "two, and the process that checks the engine"
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
    lines: list[dict[str, Any]],
    write_talks: WriteTalks,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = write_job(write_talks(lines), seq_len=128)
    process, workers = begun(job)
    process.kill()
    process.communicate(timeout=60)
    assert gone(workers)
    found = len(list(cache.glob("parts/*/*.part")))
    status, printed = call(job, "resumed")
    assert status == 0
    blocks = -(-PackJob.read(job).files[0].bytes // BLOCK)
    assert f"{found} of {blocks} blocks were there\n" in printed
    assert list(cache.rglob(".*")) == []
    monkeypatch.setenv("GEMFIT_CACHE", str(tmp_path / "another"))
    assert "blocks were there" not in call(job, "whole")[1]
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_parts_only(
    number: signal.Signals,
    begun: Callable[..., Any],
    lines: list[dict[str, Any]],
    write_talks: WriteTalks,
    write_job: WriteJob,
    tmp_path: Path,
) -> None:
    process, workers = begun(write_job(write_talks(lines), seq_len=128))
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed.endswith(
        "interrupted; the parts that are done stay, and the next build goes on from them\n"
    )
    assert "Traceback" not in printed
    assert gone(workers)
    assert not (tmp_path / "packs").exists()


def test_lines_that_are_added_cost_only_their_blocks(
    lines: list[dict[str, Any]], write_talks: WriteTalks, write_job: WriteJob, call: Call, tmp_path: Path
) -> None:
    path = write_talks(lines)
    blocks = -(-path.stat().st_size // BLOCK)
    assert call(write_job(path, seq_len=128), "before")[0] == 0
    with path.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in talks(20, seed=99))
    grown = -(-path.stat().st_size // BLOCK)
    status, printed = call(write_job(path, seq_len=128), "after")
    assert status == 0
    assert f"{blocks - 1} of {grown} blocks were there" in printed
    # What decides only over whole conversations makes no part anew.
    status, printed = call(write_job(path, seq_len=128, validation_share=0.3), "other")
    assert status == 0
    assert f"{grown} of {grown} blocks were there" in printed
    assert "were there" not in call(write_job(path, seq_len=256), "longer")[1]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_first_bad_line_is_told_whatever_the_number_of_workers(
    workers: str, lines: list[dict[str, Any]], write_talks: WriteTalks, write_job: WriteJob, call: Call
) -> None:
    some = [json.dumps(line).encode() for line in lines]
    for place in (1400, 700, 701, 1300):
        some[place - 1] = b'{"messages": 3}'
    path = write_talks(some)
    status, printed = call(write_job(path), "pack", "--workers", workers)
    assert status == 2
    assert f"error: {path}:700: `messages` is 3, expected a list" in printed
    # Parts that were made under `skip` do not hide it.
    assert call(write_job(path, on_error="skip"), "skipped", "--workers", workers)[0] == 0
    status, printed = call(write_job(path), "pack", "--workers", workers)
    assert status == 2
    assert f"error: {path}:700: " in printed


def test_skipped_lines_are_listed_with_their_place(
    lines: list[dict[str, Any]], write_talks: WriteTalks, write_job: WriteJob, call: Call, tmp_path: Path
) -> None:
    some = [json.dumps(line).encode() for line in lines]
    for place in (1400, 700, 701):
        some[place - 1] = b"{}"
    some[2] = b""
    path = write_talks(some)
    assert call(write_job(path, on_error="skip"), "pack")[0] == 0
    listed = [json.loads(line) for line in (tmp_path / "pack/rejected.jsonl").read_text().splitlines()]
    assert [one["place"] for one in listed] == [f"{path}:{place}" for place in (700, 701, 1400)]
    assert [one["line"] for one in listed] == [700, 701, 1400]
    losses = read_manifest(tmp_path / "pack").losses
    assert (losses.lines_read, losses.rejected_lines, losses.blank_lines) == (1500, 3, 1)


def test_what_comes_before_the_end_of_a_broken_file_is_told_first(
    lines: list[dict[str, Any]], write_job: WriteJob, call: Call, tmp_path: Path
) -> None:
    some = [json.dumps(line).encode() + b"\n" for line in lines]
    path = tmp_path / "talks.jsonl.gz"
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
    write_talks: WriteTalks,
    write_job: WriteJob,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = block.make_part

    def killed(text: bytes, *rest: Any) -> Any:
        if b"Last words" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        return made(text, *rest)

    monkeypatch.setattr(make_parts, "make_part", killed)
    last = {"messages": [{"role": "user", "content": "Last words"}]}
    path = write_talks([*lines[:700], last, *lines[700:]])
    status, printed = call(write_job(path), "pack", "--workers", "2")
    assert status == 2
    assert "was killed by SIGKILL (is memory short? Try fewer --workers) while it was at" in printed
    assert f"{path}, bytes " in printed


def test_a_part_that_is_missing_at_the_merge_names_its_shard(
    lines: list[dict[str, Any]], write_talks: WriteTalks, write_job: WriteJob, call: Call
) -> None:
    job = write_job(write_talks(lines))
    status, printed = call(job, "pack", "--merge")
    assert status == 2
    assert "run `gemfit pack … --shard i/n` for i from 1 to n" in printed
    assert call(job, "pack", "--shard", "1/3")[0] == 0
    assert call(job, "pack", "--shard", "3/3")[0] == 0
    status, printed = call(job, "pack", "--merge")
    assert status == 2
    assert "parts are not there; run again with --shard 2/3, then --merge" in printed


def test_a_damaged_part_is_made_again(
    lines: list[dict[str, Any]],
    write_talks: WriteTalks,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    tmp_path: Path,
) -> None:
    job = write_job(write_talks(lines), seq_len=128)
    assert call(job, "first")[0] == 0
    parts = sorted(cache.glob("parts/*/*.part"))
    assert len(parts) > 5
    whole = parts[0].read_bytes()
    parts[0].write_bytes(whole[:-5] + b"?" + whole[-4:])
    parts[1].write_bytes(parts[1].read_bytes()[:-64])
    parts[2].write_bytes(b"")
    status, printed = call(job, "again")
    assert status == 0
    assert f"{len(parts) - 3} of {len(parts)} blocks were there" in printed
    assert content(tmp_path / "first") == content(tmp_path / "again")


def test_the_cache_of_parts_has_a_bound(
    lines: list[dict[str, Any]],
    write_talks: WriteTalks,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_talks(lines)
    assert call(write_job(path, seq_len=128), "first")[0] == 0
    old = set(cache.glob("parts/*/*.part"))
    size = sum(part.stat().st_size for part in old)
    for part in old:
        os.utime(part, (1, 1))
    monkeypatch.setenv("GEMFIT_PARTS_GIB", str(1.2 * size / 2**30))
    assert call(write_job(path, seq_len=256), "second")[0] == 0
    left = set(cache.glob("parts/*/*.part"))
    assert len(left - old) == len(old)
    assert 0 < len(left & old) < len(old)
    monkeypatch.setenv("GEMFIT_PARTS_GIB", "0")
    assert call(write_job(path, seq_len=256), "third")[0] == 0
    assert not list(cache.glob("parts/*/*.part"))
    monkeypatch.setenv("GEMFIT_PARTS_GIB", "much")
    status, printed = call(write_job(path, seq_len=64), "fourth")
    assert status == 2
    assert "GEMFIT_PARTS_GIB is 'much'; write a number" in printed


def test_kept_tables_that_are_wrong_are_found_by_the_watch_and_removed(
    lines: list[dict[str, Any]],
    write_talks: WriteTalks,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    tmp_path: Path,
) -> None:
    job = write_job(write_talks(lines), seq_len=128)
    assert call(job, "right")[0] == 0
    assert read_manifest(tmp_path / "right").engine == "word cache"
    (kept,) = cache.glob("words/*.npz")
    with np.load(kept) as file:
        arrays = dict(file)
    arrays["become"] ^= 1
    np.savez(kept, **arrays)
    for part in cache.glob("parts/*/*.part"):
        part.unlink()
    status, printed = call(job, "pack")
    assert status == 0
    assert "word cache differs from tokenizers at token " in printed
    assert "the parts that word cache made are made again by tokenizers\n" in printed
    assert read_manifest(tmp_path / "pack").engine == "tokenizers"
    assert not kept.exists()
    assert call(job, "again")[0] == 0
    right, *others = (rows(tmp_path / name) for name in ("right", "pack", "again"))
    assert all(other == right for other in others)


def test_parts_of_an_engine_that_differs_are_made_again_by_the_reference(
    lines: list[dict[str, Any]],
    write_talks: WriteTalks,
    write_job: WriteJob,
    call: Call,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = write_job(write_talks(lines), seq_len=128)
    assert call(job, "right", "--engine", "tokenizers")[0] == 0
    for part in cache.glob("parts/*/*.part"):
        part.unlink()

    class Wrong(Reference):
        def encode(self, text: bytes, ends: Any) -> Any:
            if b"Last words" in text:
                raise EngineMismatch("fast engine differs on 'Last words'")
            return super().encode(text, ends)

    def chosen(tokenizer_json: Any, sample: Any, say: Any, *, engine: str, tokenizer: Any) -> Any:
        reference = reference_encoder(tokenizer)
        return reference if engine == "tokenizers" else Wrong(tokenizer.backend_tokenizer, "fast engine")

    monkeypatch.setattr("gemfit.data.building.prepare.choose_encoder", chosen)
    path = write_talks([*lines, {"messages": [{"role": "user", "content": "Last words"}]}])
    status, printed = call(write_job(path, seq_len=128), "pack")
    assert status == 0
    assert "the parts that fast engine made are made again by tokenizers\n" in printed
    assert read_manifest(tmp_path / "pack").engine == "tokenizers"
