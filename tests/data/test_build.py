"""From conversations to a pack on disk, through the command."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from datasets import load_dataset, load_from_disk

from gemfit.core import progress
from gemfit.data.document import labels, token_ids
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.pack.reader import open_pack, read_manifest, verify_pack
from gemfit.data.render.renderer import make_renderer
from gemfit.data.tokenize.tokenizer import load_tokenizer
from gemfit.errors import UserError

from .conftest import Build, WriteConversations, WriteJob, talks


def command(job: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "gemfit.data", str(job), "--out", str(out)]


def conversations(lines: list[dict[str, Any]]) -> list[Conversation]:
    return [
        Conversation(f"here:{number}", tuple(Message(m["role"], m["content"]) for m in line["messages"]))
        for number, line in enumerate(lines)
    ]


def lines_by_number(folder: Path) -> dict[int, int]:
    """Index of the line of each conversation in the pack, by its number there."""
    table = pa.ipc.open_stream(folder / "conversations.arrow").read_all().to_pylist()
    return {one["number"]: one["line"] - 1 for one in table if one["fate"] == "kept"}


def pieces(folder: Path, split: str) -> list[tuple[int, list[int], list[int]]]:
    """Line, ids and labels of every document of every row."""
    found, lines = [], lines_by_number(folder)
    for row in load_from_disk(str(folder / split)):
        edges = [0, *np.cumsum(row["seq_lengths"])]
        assert edges[-1] == row["tokens"] <= len(row["input_ids"])
        assert row["trained_tokens"] == sum(label != -100 for label in row["labels"])
        assert set(row["input_ids"][edges[-1] :]) <= {0}
        assert set(row["labels"][edges[-1] :]) <= {-100}
        for (start, end), source in zip(pairwise(edges), row["document"], strict=True):
            found.append((lines[source], row["input_ids"][start:end], row["labels"][start:end]))
    return found


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return talks(300, seed=5)


def test_the_command_packs_every_conversation_once(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    tmp_path: Path,
    tokenizer: Any,
) -> None:
    job = write_job(write_conversations_file(lines), seq_len=1024, loss_on="assistant", validation_share=0.2)
    done = subprocess.run(command(job, tmp_path / "pack"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "packed: " in done.stderr
    assert "Warning" not in done.stderr
    manifest = verify_pack(tmp_path / "pack")
    packed = {split: pieces(tmp_path / "pack", split) for split in ("train", "validation")}
    documents = make_renderer(tokenizer, "role_markers", loss_on="assistant").render(conversations(lines))
    wanted = sorted((token_ids(d.words).tolist(), labels(d.words).tolist()) for d in documents)
    assert sorted((ids, marks) for found in packed.values() for _, ids, marks in found) == wanted
    for split, found in packed.items():
        counts = manifest.splits[split]
        assert counts.documents == counts.conversations == len(found)
        assert counts.tokens == sum(len(ids) for _, ids, _ in found)
        assert counts.trained_tokens == sum(mark != -100 for _, _, marks in found for mark in marks)
    assert 30 < manifest.splits["validation"].conversations < 90
    assert manifest.splits["train"].fill(1024) > 0.95  # 38 rows, so the last one counts


def test_a_document_of_a_row_is_the_conversation_that_it_names(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    build: Build,
    tmp_path: Path,
    tokenizer: Any,
) -> None:
    assert build(write_conversations_file(lines), seq_len=1024)[0] == 0
    documents = make_renderer(tokenizer, "role_markers").render(conversations(lines))
    for split in ("train", "validation"):
        for source, ids, _ in pieces(tmp_path / "pack", split):
            assert ids == token_ids(documents[source].words).tolist()


@pytest.mark.parametrize("format", ["role_markers", "chat_template"])
def test_split_conversations_train_every_token_once_and_are_counted(
    format: str,
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    build: Build,
    tmp_path: Path,
    tokenizer: Any,
) -> None:
    assert build(write_conversations_file(lines), seq_len=96, format=format)[0] == 0
    manifest = read_manifest(tmp_path / "pack")
    documents = make_renderer(tokenizer, format).render(conversations(lines))
    trained = [0] * len(documents)
    lengths = [0] * len(documents)
    for split in ("train", "validation"):
        for source, ids, marks in pieces(tmp_path / "pack", split):
            trained[source] += sum(mark != -100 for mark in marks)
            lengths[source] += len(ids)
            assert marks[0] == -100
    assert trained == [document.trained_tokens for document in documents]
    overlong = sum(len(document.words) > 96 for document in documents)
    assert manifest.losses.split_conversations == overlong > 50
    repeated = sum(lengths) - sum(len(document.words) for document in documents)
    assert manifest.losses.repeated_tokens == repeated > 0


def test_truncated_and_dropped_tokens_are_counted_exactly(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    build: Build,
    tmp_path: Path,
    tokenizer: Any,
) -> None:
    documents = make_renderer(tokenizer, "role_markers").render(conversations(lines))
    lengths = [len(document.words) for document in documents]
    long = [length for length in lengths if length > 96]
    for overlong, kept, lost in (
        ("truncate", sum(lengths) - sum(long) + 96 * len(long), sum(long) - 96 * len(long)),
        ("drop", sum(lengths) - sum(long), sum(long)),
    ):
        assert build(write_conversations_file(lines), seq_len=96, overlong=overlong)[0] == 0
        manifest = read_manifest(tmp_path / "pack")
        losses = manifest.losses.model_dump()
        name = {"truncate": "truncated", "drop": "dropped"}[overlong]
        assert losses[f"{name}_conversations"] == len(long)
        assert losses[f"{name}_tokens"] == lost
        assert sum(counts.tokens for counts in manifest.splits.values()) == kept
        (tmp_path / "pack").rename(tmp_path / overlong)


def test_copies_are_dropped_and_near_copies_fall_on_one_side(
    write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    originals = talks(120, seed=8)
    louder = json.loads(json.dumps(originals).replace("We ", "WE  ").replace("sleep", "Sleep"))
    changed = sum(a != b for a, b in zip(originals, louder, strict=True))
    status, printed = build(
        write_conversations_file([*originals, *louder, *originals]), validation_share=0.4, seq_len=2048
    )
    assert status == 0
    assert changed > 60
    assert f"duplicate conversations: {360 - 120 - changed}" in printed
    sides: dict[str, set[str]] = {}
    tokenizer_text = open_text(tmp_path / "pack")
    for split in ("train", "validation"):
        for _, ids, _ in pieces(tmp_path / "pack", split):
            sides.setdefault(" ".join(tokenizer_text(ids).casefold().split()), set()).add(split)
    assert len(sides) == 120
    assert all(len(side) == 1 for side in sides.values())
    assert {"train", "validation"} == set.union(*sides.values())


def rows_of(folder: Path) -> dict[str, str]:
    """Digests of the files with rows."""
    return {file.path: file.xxh3 for file in verify_pack(folder).files if file.path.endswith(".arrow")} | {
        "conversations.arrow": ""
    }


def open_text(pack: Path) -> Callable[[list[int]], str]:
    loaded = load_tokenizer(str(pack / "tokenizer"))
    return lambda ids: str(loaded.decode(ids))


def test_the_same_input_gives_the_same_bytes(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    digests = []
    for _ in range(2):
        assert build(write_conversations_file(lines), scratch=500, seq_len=128)[0] == 0
        digests.append({file.path: file.xxh3 for file in verify_pack(tmp_path / "pack").files})
        (tmp_path / "pack").rename(tmp_path / f"pack-{len(digests)}")
    assert digests[0] == digests[1]
    assert len(digests[0]) >= 8


def test_compressed_and_several_files_give_the_rows_of_the_plain_one(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    plain = write_conversations_file(lines)
    assert build(plain, seq_len=128)[0] == 0
    wanted = rows_of(tmp_path / "pack")
    (tmp_path / "pack").rename(tmp_path / "plain-pack")
    text = plain.read_bytes().splitlines(keepends=True)
    folder = tmp_path / "talks"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"".join(text[:100]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(text[100:200])))
    # Two frames, as parallel compressors write them.
    frames = [zstandard.compress(b"".join(part)) for part in (text[200:250], text[250:])]
    (folder / "c.jsonl.zst").write_bytes(b"".join(frames))
    assert build(folder, seq_len=128)[0] == 0
    assert rows_of(tmp_path / "pack") == wanted


def test_a_pack_that_is_there_already_is_kept(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    path = write_conversations_file(lines)
    assert build(path)[0] == 0
    before = (tmp_path / "pack/manifest.json").stat().st_mtime_ns
    assert build(path)[0] == 0
    assert (tmp_path / "pack/manifest.json").stat().st_mtime_ns == before
    assert build(path, seq_len=512)[0] == 2


def test_an_empty_validation_split_is_said_and_can_be_opened(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    status, printed = build(write_conversations_file(lines), validation_share=0.0)
    assert status == 0
    assert "validation: empty, so there will be no evaluation" in printed
    assert len(load_from_disk(str(tmp_path / "pack/validation"))) == 0
    assert len(open_pack(tmp_path / "pack", "validation")) == 0
    assert open_pack(tmp_path / "pack", "validation").trained_tokens.shape == (0,)


def test_rows_in_many_shards_are_one_dataset(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemfit.data.build.shards.SHARD_BYTES", 8 * 128 * 10)
    monkeypatch.setattr("gemfit.data.build.shards.BATCH_BYTES", 8 * 128 * 4)
    assert build(write_conversations_file(lines), seq_len=128)[0] == 0
    rows = open_pack(tmp_path / "pack", "train")
    shards = sorted(path.name for path in (tmp_path / "pack/train").glob("*.arrow"))
    assert len(shards) == -(-len(rows) // 10) > 3
    assert shards[-1] == f"data-{len(shards) - 1:05d}-of-{len(shards):05d}.arrow"
    dataset = load_from_disk(str(tmp_path / "pack/train"))
    assert len(dataset) == len(rows)
    for index in range(len(rows)):
        assert rows[index].input_ids.tolist() == dataset[index]["input_ids"]
        assert rows[index].labels.tolist() == dataset[index]["labels"]
        assert rows[index].seq_lengths.tolist() == dataset[index]["seq_lengths"]
    assert rows.tokens.tolist() == dataset["tokens"][:]
    by_files = load_dataset("arrow", data_files=str(tmp_path / "pack/train/*.arrow"), split="train")
    assert by_files[len(rows) - 1]["input_ids"] == rows[len(rows) - 1].input_ids.tolist()


def test_a_bar_on_a_terminal_and_plain_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        with progress.progress("packing", 200, "bytes") as shown:
            shown.at(50)
        assert capsys.readouterr().err == "packing: 50 bytes (25%)\n"
        patch.setattr(sys.stderr, "isatty", lambda: True)
        with progress.progress("packing", 200, "bytes") as shown:
            shown.at(200)
        assert "packing: 100%" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_is_named_and_nothing_is_left(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    write_job: WriteJob,
    cache: Path,
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        job = write_job(write_conversations_file(lines))
        places = ((disk / "pack", cache, disk), (tmp_path / "pack", disk, disk / "blocks"))
        for out, parts, full in places:
            done = subprocess.run(
                command(job, out),
                capture_output=True,
                text=True,
                timeout=120,
                env=os.environ | {"GEMFIT_CACHE": str(parts)},
            )
            assert done.returncode == 2, done.stderr
            assert f"error: {full}: the disk is full" in done.stderr
            assert "write elsewhere" in done.stderr
            assert "Traceback" not in done.stderr
            assert not out.exists()
            left = {path.parts[len(disk.parts)] for path in disk.rglob("*") if path.is_file()}
            assert left <= {"tokenizers", "words"}  # whole and of use to the next build
    finally:
        subprocess.run(["umount", str(disk)], check=True)


MEASURE = """
import resource, sys
from gemfit.data.jsonl import blocks
from gemfit.data.__main__ import main
blocks.BLOCK_BYTES = 2**18
status = main([sys.argv[1], "--out", sys.argv[2]])
who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
print(status, sum(resource.getrusage(one).ru_maxrss for one in who))
"""


def peak_mib(job: Path, out: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(job), str(out)], capture_output=True, text=True, timeout=120
    )
    status, kib = done.stdout.split()
    assert status == "0", done.stderr
    return int(kib) / 1024


def test_memory_does_not_grow_with_the_input(
    write_conversations_file: WriteConversations, write_job: WriteJob, tmp_path: Path
) -> None:
    text = "We sleep and work and rest today, and we feel the long night. " * 12
    sizes, peaks = [], []
    for count in (1_000, 10_000):
        lines = [{"messages": [{"role": "user", "content": f"{i}. {text}"}]} for i in range(count)]
        path = write_conversations_file(lines)
        sizes.append(path.stat().st_size / 2**20)
        job = write_job(path, seq_len=1024, near_duplicates="ignore")
        peaks.append(peak_mib(job, tmp_path / f"pack-{count}"))
    grown = sizes[1] - sizes[0]
    assert grown > 6
    # Packed rows of this input take four times its size; some bytes a conversation are allowed.
    assert peaks[1] - peaks[0] < grown


def test_a_folder_that_is_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a finished pack .* `gemfit pack`"):
        open_pack(tmp_path, "train")


def test_damage_to_a_pack_is_found(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    assert build(write_conversations_file(lines))[0] == 0
    pack = tmp_path / "pack"
    with pytest.raises(UserError, match=r"has no split 'test'; it has train, validation"):
        open_pack(pack, "test")
    shard = pack / "train/data-00000-of-00001.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100] + b"\x01" + whole[-99:])
    with pytest.raises(UserError, match="is not what was packed; delete"):
        verify_pack(pack)
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="pack"):
        open_pack(pack, "train")
    shard.unlink()
    with pytest.raises(UserError, match="is missing; delete"):
        verify_pack(pack)


def test_rows_travel_to_another_process_as_a_path(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    assert build(write_conversations_file(lines))[0] == 0
    rows = open_pack(tmp_path / "pack", "train")
    assert len(pickle.dumps(rows)) < 500
    again = pickle.loads(pickle.dumps(rows))
    assert again[0].input_ids.tolist() == rows[0].input_ids.tolist()
    with pytest.raises(IndexError, match=f"row {len(rows)} of"):
        rows[len(rows)]


def test_counts_of_the_manifest_are_those_of_the_columns(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    assert build(write_conversations_file(lines), seq_len=128)[0] == 0
    rows = open_pack(tmp_path / "pack", "train")
    counts = rows.manifest.splits["train"]
    assert rows.tokens.sum() == counts.tokens
    assert rows.trained_tokens.sum() == counts.trained_tokens
    assert rows.tokens.dtype == rows.trained_tokens.dtype == np.int64
    sources = Counter(source for source, _, _ in pieces(tmp_path / "pack", "train"))
    assert len(sources) == counts.conversations
    assert sources.total() == counts.documents
