"""A pack made by hand: the simplest rendering, chunks split anywhere, rows filled as they come.

It shares no code with the builder, so that what reads packs is not tested with what writes them.
Every value can be changed before it is written, to plant a defect.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from gemfit.schemas.manifest import (
    FileDigest,
    Losses,
    PackInput,
    PackManifest,
    PackSource,
    SplitCounts,
    TokenFlow,
)

IGNORED = -100
CONTEXT = 4
"""Tokens of what came before, at the start of a continued chunk."""


def render(tokenizer: Any, messages: list[dict[str, str]], loss_on: str) -> tuple[list[int], list[bool]]:
    """Ids of a conversation under ``role_markers``, and which of them are trained."""

    def plain(text: str) -> list[int]:
        backend = tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        backend.encode_special_tokens = False
        return ids

    ids, trained = [tokenizer.bos_token_id], [False]
    for message in messages:
        header = plain(f"<|{message['role']}|>")
        body = [*plain(message["content"]), tokenizer.eos_token_id]
        ids += header + body
        answer = message["role"] == "assistant"
        trained += [loss_on == "all"] * len(header) + [loss_on == "all" or answer] * len(body)
    return ids, trained


@dataclass
class TableEntry:
    """A line of the table of conversations."""

    ids: list[int]
    trained: list[bool]
    line: int
    source: int = 0
    disposition: str = "kept"
    number: int = -1
    copies: int = 1
    split: int = 0
    truncated: int = 0
    untrained: int = 0
    digest: bytes = b""


@dataclass
class Row:
    """Columns of a row, as lists."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    seq_lengths: list[int] = field(default_factory=list)
    document: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0


@dataclass
class Handmade:
    """Everything that a pack holds, still open to change."""

    tokenizer: Any
    seq_len: int
    loss_on: str
    entries: list[TableEntry]
    rows: dict[str, list[Row]]
    changes: dict[str, Any] = field(default_factory=dict)
    """Values of the manifest that replace the true ones."""

    def flow(self) -> dict[str, TokenFlow]:
        """The true flow of tokens, by source."""
        return {
            "first": self._flow({0}),
            "second": self._flow({1}),
            "total": self._flow({0, 1}),
        }

    def write(self, folder: Path) -> Path:
        """Write the pack, with digests that fit."""
        for split, rows in self.rows.items():
            (folder / split).mkdir(parents=True)
            self._write_rows(folder / split / "data-00000-of-00001.arrow", rows)
        self._write_conversations(folder / "conversations.arrow")
        self.tokenizer.save_pretrained(str(folder / "tokenizer"))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = self._manifest(tuple(digest(folder, path) for path in files))
        (folder / "manifest.json").write_text(manifest.to_json())
        return folder

    def _write_rows(self, path: Path, rows: list[Row]) -> None:
        row = pa.list_(pa.int32(), self.seq_len)
        some = pa.list_(pa.int32())
        columns = {
            "input_ids": row,
            "labels": row,
            "seq_lengths": some,
            "document": pa.list_(pa.int64()),
            "starts": some,
            "repeated": some,
            "tokens": pa.int32(),
            "trained_tokens": pa.int32(),
        }
        schema = pa.schema(list(columns.items()))
        table = []
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for begin in range(0, len(rows), 3):  # several batches, so that numbers of rows go on
                # The schema is written with the first batch.
                table.append((0, begin, sink.tell() or schema.serialize().size))
                some_rows = [vars(row) for row in rows[begin : begin + 3]]
                writer.write_batch(pa.RecordBatch.from_pylist(some_rows, schema=schema))
        np.save(path.parent / "batches.npy", np.array(table, np.int64))
        counts = [[row.tokens for row in rows], [row.trained_tokens for row in rows]]
        np.save(path.parent / "counts.npy", np.array(counts, np.int64))

    def _write_conversations(self, path: Path) -> None:
        table = pa.table(
            {
                "source": pa.array([entry.source for entry in self.entries], pa.int16()),
                "file": pa.array([entry.source for entry in self.entries], pa.int32()),
                "line": pa.array([entry.line for entry in self.entries], pa.int64()),
                "digest": pa.array([entry.digest for entry in self.entries], pa.binary(16)),
                "tokens": pa.array([len(entry.ids) for entry in self.entries], pa.int32()),
                "trained": pa.array([sum(entry.trained) for entry in self.entries], pa.int32()),
                "disposition": pa.array([entry.disposition for entry in self.entries]).dictionary_encode(),
                "number": pa.array([entry.number for entry in self.entries], pa.int64()),
                "copies": pa.array([entry.copies for entry in self.entries], pa.int32()),
                "split": pa.array([entry.split for entry in self.entries], pa.int8()),
                "truncated": pa.array([entry.truncated for entry in self.entries], pa.int32()),
                "untrained": pa.array([entry.untrained for entry in self.entries], pa.int32()),
            }
        )
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

    def _manifest(self, files: tuple[FileDigest, ...]) -> PackManifest:
        kept = [entry for entry in self.entries if entry.disposition == "kept"]
        values: dict[str, Any] = {
            "fingerprint": "f" * 32,
            "tokenizer_digest": "0" * 32,
            "format": "role_markers",
            "eos": "token",
            "loss_on": self.loss_on,
            "seq_len": self.seq_len,
            "overlong": "split",
            "pad_id": self.tokenizer.pad_token_id,
            "bos_id": self.tokenizer.bos_token_id,
            "eos_id": self.tokenizer.eos_token_id,
            "splits": {
                split: self._counts(index, rows) for index, (split, rows) in enumerate(self.rows.items())
            },
            "losses": Losses(
                lines_read=len(self.entries),
                blank_lines=0,
                rejected_lines=0,
                duplicate_conversations=sum(entry.disposition == "duplicate" for entry in self.entries),
                left_by_weight_conversations=sum(
                    entry.disposition == "left_by_weight" for entry in self.entries
                ),
                split_conversations=0,
                repeated_tokens=sum(sum(row.repeated) for rows in self.rows.values() for row in rows),
                truncated_conversations=0,
                truncated_tokens=0,
                dropped_conversations=0,
                dropped_tokens=0,
            ),
            "flow": self.flow(),
            "roles": {"user": sum(len(entry.ids) for entry in kept)},
            "sources": (PackSource(name="first", weight=1.0), PackSource(name="second", weight=2.0)),
            "inputs": tuple(
                PackInput(path=f"{name}.jsonl", bytes=1, xxh3="0" * 32, source=index)
                for index, name in enumerate(["first", "second"])
            ),
            "files": files,
            "versions": {},
        }
        return PackManifest(**(values | self.changes))

    def _counts(self, side: int, rows: list[Row]) -> SplitCounts:
        return SplitCounts(
            rows=len(rows),
            conversations=sum(entry.disposition == "kept" and entry.split == side for entry in self.entries),
            documents=sum(len(row.seq_lengths) for row in rows),
            tokens=sum(row.tokens for row in rows),
            trained_tokens=sum(row.trained_tokens for row in rows),
            repeated_tokens=sum(sum(row.repeated) for row in rows),
        )

    def _flow(self, sources: set[int]) -> TokenFlow:
        entries = [entry for entry in self.entries if entry.source in sources]
        kept = [entry for entry in entries if entry.disposition == "kept"]
        of_source = {entry.number for entry in kept}
        repeated = sum(
            again
            for rows in self.rows.values()
            for row in rows
            for number, again in zip(row.document, row.repeated, strict=True)
            if number in of_source
        )
        oversampled = sum((entry.copies - 1) * len(entry.ids) for entry in kept)
        lost = {
            disposition: sum(len(entry.ids) for entry in entries if entry.disposition == disposition)
            for disposition in (
                "duplicate",
                "near_duplicate",
                "left_by_weight",
                "beyond_max_rows",
                "overlong",
            )
        }
        return TokenFlow(
            tokens_read=sum(len(entry.ids) for entry in entries),
            repeated=repeated,
            oversampled=oversampled,
            packed=sum(len(entry.ids) for entry in kept) + oversampled + repeated,
            truncated=0,
            untrained=0,
            **lost,
        )


def handmade(
    tokenizer: Any, conversations: list[dict[str, Any]], *, seq_len: int = 48, loss_on: str = "all"
) -> Handmade:
    """A sound pack of the conversations: every fifth in validation, every third of source two and twice.

    The last conversation has a copy, and the one before it was not drawn.
    """
    entries = []
    for index, conversation in enumerate(conversations):
        ids, trained = render(tokenizer, conversation["messages"], loss_on)
        name = xxhash.xxh3_128_digest(json.dumps(conversation).encode())
        second = index % 3 == 2
        entry = TableEntry(ids, trained, index + 1, int(second), digest=name, split=int(index % 5 == 4))
        entry.copies = 1 + second
        entries.append(entry)
    entries[-2].disposition, entries[-2].copies, entries[-2].split = "left_by_weight", 0, -1
    kept = sorted(
        (entry for entry in entries if entry.disposition == "kept"),
        key=lambda entry: struct.unpack("<2Q", entry.digest),
    )
    for number, entry in enumerate(kept):
        entry.number = number
    last = entries[-1]
    copy = TableEntry(last.ids, last.trained, len(entries) + 1, last.source, "duplicate", last.number, 0, -1)
    entries.append(TableEntry(**{**vars(copy), "digest": last.digest}))
    rows = {
        split: _rows(
            [entry for entry in kept if entry.split == side for _ in range(entry.copies)], tokenizer, seq_len
        )
        for side, split in enumerate(("train", "validation"))
    }
    return Handmade(tokenizer, seq_len, loss_on, entries, rows)


def digest(folder: Path, path: Path) -> FileDigest:
    """Name, size and digest of a file, as a manifest has them."""
    content = path.read_bytes()
    name = path.relative_to(folder).as_posix()
    return FileDigest(path=name, bytes=len(content), xxh3=xxhash.xxh3_128_hexdigest(content))


def _rows(entries: list[TableEntry], tokenizer: Any, seq_len: int) -> list[Row]:
    rows = [Row()]
    for entry in entries:
        position = 0
        while position < len(entry.ids):
            context = (
                [tokenizer.bos_token_id, *entry.ids[max(0, position - CONTEXT) : position]]
                if position
                else []
            )
            if rows[-1].tokens + len(context) >= seq_len:
                rows.append(Row())
            row = rows[-1]
            stop = min(len(entry.ids), position + seq_len - row.tokens - len(context))
            labels = [
                token if trained else IGNORED
                for token, trained in zip(entry.ids[position:stop], entry.trained[position:stop], strict=True)
            ]
            row.input_ids += context + entry.ids[position:stop]
            row.labels += [IGNORED] * len(context) + labels
            row.seq_lengths.append(len(context) + stop - position)
            row.document.append(entry.number)
            row.starts.append(position)
            row.repeated.append(len(context))
            row.tokens += row.seq_lengths[-1]
            row.trained_tokens += sum(label != IGNORED for label in labels)
            position = stop
    for row in rows:
        padding = seq_len - len(row.input_ids)
        row.input_ids += [tokenizer.pad_token_id] * padding
        row.labels += [IGNORED] * padding
    return rows
