"""Read rows of a finished pack by number, memory-mapped (Arrow).

Opening maps tables and reads no row, so it takes the same time for any number of rows. The first row of a
record batch costs some 50 microseconds, every other one a few once its page is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gemfit.core.file_digest import file_xxh3
from gemfit.errors import UserError
from gemfit.schemas.manifest import FileDigest, PackManifest, missing_or_resized

MANIFEST = "manifest.json"
CONVERSATIONS = "conversations.arrow"
"""Table with one line per valid conversation of the input, packed or not."""
BATCHES = "batches.npy"
"""Per split (batches, 3) int64: shard, first row and byte offset of every record batch."""
COUNTS = "counts.npy"
"""Per split (2, rows) int64: tokens and trained tokens of every row."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One packed row, as read-only views of the mapped file."""

    input_ids: NDArray[np.int32]
    """(seq_len,)"""
    labels: NDArray[np.int32]
    """(seq_len,), -100 where masked."""
    seq_lengths: NDArray[np.int32]
    """(documents,): their sum is the number of real tokens, followed by padding."""


class PackedRows:
    """The rows of one split. Copies in other processes map the same files."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self.manifest = read_manifest(folder)
        if split not in self.manifest.splits:
            raise UserError(f"{folder}: has no split {split!r}; it has {', '.join(self.manifest.splits)}")
        self._check_sizes()
        self._batches = load_table(folder / split / BATCHES)
        self._counts = load_table(folder / split / COUNTS)
        if len(self) != self.manifest.splits[split].rows:
            raise UserError(
                f"{folder / split}: holds {len(self)} rows, but its manifest says "
                f"{self.manifest.splits[split].rows}; delete {folder} and pack again"
            )
        self._paths = self._shards()
        self._maps: dict[int, tuple[pa.Buffer, pa.Schema]] = {}
        self._opened: dict[int, _Batch] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedRows, (self._folder, self._split)

    def __len__(self) -> int:
        return int(self._counts.shape[1])

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._batches[:, 1], index, side="right")) - 1
        batch, row = self._batch(number), index - int(self._batches[number, 1])
        lengths = batch.seq_lengths[batch.ends[row] : batch.ends[row + 1]]
        return Row(batch.input_ids[row], batch.labels[row], lengths)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Real tokens of each row: (rows,), mapped."""
        return self._counts[0]

    @property
    def trained_tokens(self) -> NDArray[np.int64]:
        """Tokens with a label of each row: (rows,), mapped."""
        return self._counts[1]

    @property
    def most_documents(self) -> int:
        """The largest number of documents in a row; costs one read of their offsets."""
        batches = (self._batch(number) for number in range(len(self._batches)))
        return max((int(np.diff(batch.ends).max()) for batch in batches), default=0)

    def _batch(self, number: int) -> _Batch:
        batch = self._opened.get(number)
        if batch is None:
            shard, _, at = self._batches[number].tolist()
            batch = self._opened[number] = self._read(shard, at)
        return batch

    def _read(self, shard: int, at: int) -> _Batch:
        path = self._paths[shard]
        try:
            if shard not in self._maps:
                whole = pa.memory_map(str(path)).read_buffer()
                self._maps[shard] = whole, pa.ipc.open_stream(whole).schema
            whole, schema = self._maps[shard]
            message = pa.ipc.read_message(pa.BufferReader(whole.slice(at)))
            return _batch_views(pa.ipc.read_record_batch(message, schema))
        except (OSError, EOFError, pa.ArrowInvalid, IndexError) as error:
            raise UserError(f"{path}: cannot be read: {error}; delete the pack and make it again") from None

    def _check_sizes(self) -> None:
        own = [file for file in self.manifest.files if file.path.startswith(f"{self._split}/")]
        if wrong := missing_or_resized(self._folder, own):
            raise UserError(f"{self._folder}: {wrong}; delete the pack and make it again")

    def _shards(self) -> list[Path]:
        shards = [file.path for file in self.manifest.files if file.path.endswith(".arrow")]
        return [self._folder / path for path in shards if path.startswith(f"{self._split}/")]


def open_pack(folder: Path, split: str) -> PackedRows:
    """The rows of ``split`` (`train` or `validation`); a folder that is not a pack is a ``UserError``."""
    return PackedRows(Path(folder), split)


def read_manifest(folder: Path) -> PackManifest:
    """The manifest of a finished pack; a folder without one is a ``UserError``."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder}: is not a finished pack (it has no {MANIFEST}); make one with `gemfit pack`"
        )
    return PackManifest.read(path)


def file_digest(folder: Path, path: Path) -> FileDigest:
    """Name, size and XXH3-128 of one file of a folder."""
    return FileDigest(
        path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, xxh3=file_xxh3(path)
    )


class _Batch(NamedTuple):
    """The columns of one record batch as views of the mapped file."""

    input_ids: NDArray[np.int32]
    """(rows, seq_len)"""
    labels: NDArray[np.int32]
    """(rows, seq_len)"""
    ends: NDArray[np.int32]
    """(rows + 1,): offsets of each row in ``seq_lengths``."""
    seq_lengths: NDArray[np.int32]
    document: NDArray[np.int64]
    """(chunks,): number of the conversation in the pack."""


def load_table(path: Path) -> NDArray[np.int64]:
    """A table of integers, mapped; anything else, such as a pickle, is a ``UserError``."""
    try:
        table: NDArray[np.int64] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error}; delete the pack and make it again") from None
    return table


def _batch_views(batch: pa.RecordBatch) -> _Batch:
    lengths = batch.column("seq_lengths")
    ends = np.frombuffer(lengths.buffers()[1], np.int32, batch.num_rows + 1)
    return _Batch(
        _ints(batch.column("input_ids").values).reshape(batch.num_rows, -1),
        _ints(batch.column("labels").values).reshape(batch.num_rows, -1),
        ends,
        _ints(lengths.values),
        np.frombuffer(batch.column("document").values.buffers()[1], np.int64, len(lengths.values)),
    )


def _ints(array: pa.Array) -> NDArray[np.int32]:
    """A view of whole columns; ``to_numpy`` would import pandas for it."""
    return np.frombuffer(array.buffers()[1], np.int32, len(array))
