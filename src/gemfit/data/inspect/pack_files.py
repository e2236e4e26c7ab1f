"""Read the files of a pack as arrays: rows with their provenance, and the table of conversations.

Rows come one record batch of a few MiB at a time. The table of conversations is memory-mapped, and only
the columns in use take memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gemfit.data.jsonl.blocks import line_place
from gemfit.data.pack.reader import BATCHES, CONVERSATIONS, load_table, read_manifest
from gemfit.errors import UserError
from gemfit.schemas.manifest import PackManifest

SPLIT_NAMES = ("train", "validation")
"""Names of the values 0 and 1 in the column `split`; -1 is in no split."""


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Consecutive rows of a split. Shapes in brackets."""

    first: int
    """Number of the first row in its split."""
    input_ids: NDArray[np.int32]
    """(rows, seq_len)"""
    labels: NDArray[np.int32]
    """(rows, seq_len), -100 where masked."""
    ends: NDArray[np.int64]
    """(rows + 1,): offsets of each row's chunks in the columns below."""
    lengths: NDArray[np.int32]
    """(chunks,): tokens, repeated context included."""
    document: NDArray[np.int64]
    """(chunks,): number of the conversation in the pack."""
    starts: NDArray[np.int32]
    """(chunks,): index in the rendered conversation of the first token that is not repeated."""
    repeated: NDArray[np.int32]
    """(chunks,): repeated tokens, masked context of another chunk."""
    tokens: NDArray[np.int32]
    """(rows,)"""
    trained_tokens: NDArray[np.int32]
    """(rows,)"""


class Conversations:
    """``conversations.arrow``: one line per valid conversation in input order, column by column."""

    def __init__(self, folder: Path) -> None:
        path = folder / CONVERSATIONS
        try:
            self._table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: cannot be read: {error}; delete {folder} and pack again") from None

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getattr__(self, name: str) -> NDArray[Any]:
        """The integers of a column: (conversations,)."""
        if name.startswith("_") or name not in self._table.column_names:
            raise AttributeError(name)
        return np.asarray(self._table.column(name).to_numpy())

    def has_disposition(self, disposition: str) -> NDArray[np.bool_]:
        """(conversations,): True for those with this disposition."""
        codes, names = self._dispositions
        return codes == (names.index(disposition) if disposition in names else len(names))

    @property
    def dispositions(self) -> list[str]:
        """Names of the dispositions that occur, sorted."""
        codes, names = self._dispositions
        return sorted(names[code] for code in np.flatnonzero(np.bincount(codes)).tolist())

    @cached_property
    def _dispositions(self) -> tuple[NDArray[np.int8], list[str]]:
        """(conversations,) codes, and their names."""
        table = self._table.select(["disposition"]).unify_dictionaries()
        chunks = table.column("disposition").chunks
        codes = [chunk.indices.to_numpy().astype(np.int8) for chunk in chunks]
        names = chunks[-1].dictionary.to_pylist() if chunks else []
        return np.concatenate([np.empty(0, np.int8), *codes]), names

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(conversations, 2): equal for exact copies only; the first column is the high half. A copy."""
        parts = self._table.column("digest").chunks
        raw = b"".join(part.buffers()[1][16 * part.offset : 16 * (part.offset + len(part))] for part in parts)
        return np.frombuffer(raw, "<u8").reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class Pack:
    """A finished pack, opened for reading."""

    folder: Path
    manifest: PackManifest
    conversations: Conversations

    def shards(self, split: str) -> list[Path]:
        """The files with the rows of ``split``, in order."""
        if split not in self.manifest.splits:
            splits = ", ".join(self.manifest.splits)
            raise UserError(f"{self.folder}: has no split {split!r}; it has {splits}")
        names = [file.path for file in self.manifest.files if file.path.startswith(f"{split}/")]
        return [self.folder / name for name in names if name.endswith(".arrow")]

    def batches(self, split: str, rows: range | None = None) -> Iterator[RowBatch]:
        """The batches that hold ``rows`` (all by default), memory-mapped."""
        shards = self.shards(split)
        table = load_table(self.folder / split / BATCHES)
        wanted = rows if rows is not None else range(self.manifest.splits[split].rows)
        stops = np.append(table[1:, 1], self.manifest.splits[split].rows)
        chosen = table[(table[:, 1] < wanted.stop) & (stops > wanted.start)]
        for shard, group in groupby(chosen.tolist(), key=lambda entry: entry[0]):
            try:
                whole = pa.memory_map(str(shards[shard])).read_buffer()
                schema = pa.ipc.open_stream(whole).schema
                for _, first, at in group:
                    message = pa.ipc.read_message(pa.BufferReader(whole.slice(at)))
                    yield as_arrays(pa.ipc.read_record_batch(message, schema), first)
            except (OSError, EOFError, pa.ArrowInvalid) as error:
                way_out = f"delete {self.folder} and pack again"
                raise UserError(f"{shards[shard]}: cannot be read: {error}; {way_out}") from None

    def origin(self, index: int) -> tuple[str, str, int]:
        """Source name, file and line of the conversation in line ``index`` of the table."""
        conversations = self.conversations
        source = self.manifest.sources[int(conversations.source[index])].name
        return (
            source,
            self.manifest.inputs[int(conversations.file[index])].path,
            int(conversations.line[index]),
        )

    def place(self, index: int) -> str:
        """Where the conversation in line ``index`` of the table was read (``line_place``)."""
        one = self.manifest.inputs[int(self.conversations.file[index])]
        return line_place(one.path, int(self.conversations.line[index]), in_array=one.in_array)


def open_pack_files(folder: Path) -> Pack:
    """Open the pack in ``folder``; a folder that is not a pack is a ``UserError``."""
    return Pack(folder, read_manifest(folder), Conversations(folder))


def as_arrays(batch: pa.RecordBatch, first: int) -> RowBatch:
    """The columns of a record batch as views of its buffers."""
    lengths = batch.column("seq_lengths")
    ends = lengths.offsets.to_numpy().astype(np.int64)
    return RowBatch(
        first=first,
        input_ids=_square(batch.column("input_ids")),
        labels=_square(batch.column("labels")),
        ends=ends - ends[0],
        lengths=lengths.flatten().to_numpy(),
        document=batch.column("document").flatten().to_numpy(),
        starts=batch.column("starts").flatten().to_numpy(),
        repeated=batch.column("repeated").flatten().to_numpy(),
        tokens=batch.column("tokens").to_numpy(),
        trained_tokens=batch.column("trained_tokens").to_numpy(),
    )


def _square(column: pa.FixedSizeListArray) -> NDArray[np.int32]:
    values: NDArray[np.int32] = column.flatten().to_numpy()
    return values.reshape(len(column), -1)
