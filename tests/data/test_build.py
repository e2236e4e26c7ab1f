"""From conversations to a pack on disk, through the command."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from datasets import load_from_disk

from gemfit.data.document import labels, token_ids
from gemfit.data.jsonl.conversation import Conversation, Message
from gemfit.data.pack.reader import open_pack, read_manifest
from gemfit.data.render.renderer import make_renderer
from gemfit.data.tokenize.tokenizer import load_tokenizer

from .conftest import Build, WriteConversations, WriteJob, command, random_conversations, verified_manifest


def parsed(lines: list[dict[str, Any]]) -> list[Conversation]:
    return [
        Conversation(f"here:{number}", tuple(Message(m["role"], m["content"]) for m in line["messages"]))
        for number, line in enumerate(lines)
    ]


def lines_by_number(folder: Path) -> dict[int, int]:
    """Index of the line of each conversation in the pack, by its number there."""
    table = pa.ipc.open_stream(folder / "conversations.arrow").read_all().to_pylist()
    return {one["number"]: one["line"] - 1 for one in table if one["disposition"] == "kept"}


def documents_of(folder: Path, split: str) -> list[tuple[int, list[int], list[int]]]:
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
    return random_conversations(300, seed=5)


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
    manifest = verified_manifest(tmp_path / "pack")
    packed = {split: documents_of(tmp_path / "pack", split) for split in ("train", "validation")}
    documents = make_renderer(tokenizer, "role_markers", loss_on="assistant").render(parsed(lines))
    wanted = sorted((token_ids(d.words).tolist(), labels(d.words).tolist()) for d in documents)
    assert sorted((ids, marks) for found in packed.values() for _, ids, marks in found) == wanted
    for split, found in packed.items():
        counts = manifest.splits[split]
        assert counts.documents == counts.conversations == len(found)
        assert counts.tokens == sum(len(ids) for _, ids, _ in found)
        assert counts.trained_tokens == sum(mark != -100 for _, _, marks in found for mark in marks)
    assert 30 < manifest.splits["validation"].conversations < 90
    assert manifest.splits["train"].fill(1024) > 0.95  # 38 rows, so the last one counts


def test_a_document_of_a_row_is_the_conversation_of_its_number(
    lines: list[dict[str, Any]],
    write_conversations_file: WriteConversations,
    build: Build,
    tmp_path: Path,
    tokenizer: Any,
) -> None:
    assert build(write_conversations_file(lines), seq_len=1024)[0] == 0
    documents = make_renderer(tokenizer, "role_markers").render(parsed(lines))
    for split in ("train", "validation"):
        for source, ids, _ in documents_of(tmp_path / "pack", split):
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
    documents = make_renderer(tokenizer, format).render(parsed(lines))
    trained = [0] * len(documents)
    lengths = [0] * len(documents)
    for split in ("train", "validation"):
        for source, ids, marks in documents_of(tmp_path / "pack", split):
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
    documents = make_renderer(tokenizer, "role_markers").render(parsed(lines))
    lengths = [len(document.words) for document in documents]
    long = [length for length in lengths if length > 96]
    for overlong, packed, lost in (
        ("truncate", sum(lengths) - sum(long) + 96 * len(long), sum(long) - 96 * len(long)),
        ("drop", sum(lengths) - sum(long), sum(long)),
    ):
        assert build(write_conversations_file(lines), seq_len=96, overlong=overlong)[0] == 0
        manifest = read_manifest(tmp_path / "pack")
        losses = manifest.losses.model_dump()
        name = {"truncate": "truncated", "drop": "dropped"}[overlong]
        assert losses[f"{name}_conversations"] == len(long)
        assert losses[f"{name}_tokens"] == lost
        assert sum(counts.tokens for counts in manifest.splits.values()) == packed
        (tmp_path / "pack").rename(tmp_path / overlong)


def test_duplicates_are_dropped_and_near_duplicates_share_a_split(
    write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    originals = random_conversations(120, seed=8)
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
        for _, ids, _ in documents_of(tmp_path / "pack", split):
            sides.setdefault(" ".join(tokenizer_text(ids).casefold().split()), set()).add(split)
    assert len(sides) == 120
    assert all(len(side) == 1 for side in sides.values())
    assert {"train", "validation"} == set.union(*sides.values())


def rows_of(folder: Path) -> dict[str, str]:
    """Digests of the files with rows."""
    return {
        file.path: file.xxh3 for file in verified_manifest(folder).files if file.path.endswith(".arrow")
    } | {"conversations.arrow": ""}


def open_text(pack: Path) -> Callable[[list[int]], str]:
    loaded = load_tokenizer(str(pack / "tokenizer"))
    return lambda ids: str(loaded.decode(ids))


def test_the_same_input_gives_the_same_bytes(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    digests = []
    for _ in range(2):
        assert build(write_conversations_file(lines), scratch=500, seq_len=128)[0] == 0
        digests.append({file.path: file.xxh3 for file in verified_manifest(tmp_path / "pack").files})
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
    folder = tmp_path / "conversations"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"".join(text[:100]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(text[100:200])))
    # Two frames, as parallel compressors write them.
    frames = [zstandard.compress(b"".join(part)) for part in (text[200:250], text[250:])]
    (folder / "c.jsonl.zst").write_bytes(b"".join(frames))
    assert build(folder, seq_len=128)[0] == 0
    assert rows_of(tmp_path / "pack") == wanted


def test_an_existing_pack_is_kept(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    path = write_conversations_file(lines)
    assert build(path)[0] == 0
    before = (tmp_path / "pack/manifest.json").stat().st_mtime_ns
    assert build(path)[0] == 0
    assert (tmp_path / "pack/manifest.json").stat().st_mtime_ns == before
    assert build(path, seq_len=512)[0] == 2


def test_counts_of_the_manifest_are_those_of_the_columns(
    lines: list[dict[str, Any]], write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    assert build(write_conversations_file(lines), seq_len=128)[0] == 0
    rows = open_pack(tmp_path / "pack", "train")
    counts = rows.manifest.splits["train"]
    assert rows.tokens.sum() == counts.tokens
    assert rows.trained_tokens.sum() == counts.trained_tokens
    assert rows.tokens.dtype == rows.trained_tokens.dtype == np.int64
    sources = Counter(source for source, _, _ in documents_of(tmp_path / "pack", "train"))
    assert len(sources) == counts.conversations
    assert sources.total() == counts.documents
