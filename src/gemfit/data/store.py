"""Open a finished pack: memory-mapped rows, read by number.

Opening maps the shards and reads no row; a row costs a few microseconds once its page is there.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gemfit.errors import UserError
from gemfit.manifest import FileDigest, PackManifest

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One packed row; read-only views of the mapped file."""

    input_ids: NDArray[np.int32]
    """(seq_len,)"""
    labels: NDArray[np.int32]
    """(seq_len,), -100 where no loss counts."""
    seq_lengths: NDArray[np.int32]
    """(documents,): their sum is the number of real tokens; the rest is padding."""


class PackedRows:
    """The rows of one split. Copies in other processes map the same files."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self.manifest = read_manifest(folder)
        if split not in self.manifest.splits:
            raise UserError(f"{folder}: has no split {split!r}; it has {', '.join(self.manifest.splits)}")
        self._batches = [batch for path in self._shards() for batch in _mapped(path)]
        self._starts = np.cumsum([0, *(len(batch.tokens) for batch in self._batches)]).tolist()
        if len(self) != self.manifest.splits[split].rows:
            raise UserError(
                f"{folder / split}: holds {len(self)} rows, but its manifest says "
                f"{self.manifest.splits[split].rows}; delete {folder} and pack again"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedRows, (self._folder, self._split)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        batch, row = self._batches[number], index - self._starts[number]
        lengths = batch.seq_lengths[batch.ends[row] : batch.ends[row + 1]]
        return Row(batch.input_ids[row], batch.labels[row], lengths)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Real tokens of each row: (rows,). Reads one column of every batch."""
        return _joined([batch.tokens for batch in self._batches])

    @cached_property
    def trained_tokens(self) -> NDArray[np.int64]:
        """Tokens with a label of each row: (rows,). Reads one column of every batch."""
        return _joined([batch.trained_tokens for batch in self._batches])

    def _shards(self) -> list[Path]:
        shards = [file.path for file in self.manifest.files if file.path.endswith(".arrow")]
        return [self._folder / path for path in shards if path.startswith(f"{self._split}/")]


def open_pack(folder: Path, split: str) -> PackedRows:
    """The rows of ``split`` (`train` or `validation`); a folder that is no pack is a ``UserError``."""
    return PackedRows(Path(folder), split)


def read_manifest(folder: Path) -> PackManifest:
    """The manifest of a finished pack; without one there is no pack."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: is no finished pack (it has no {MANIFEST}); make one with `gemfit pack`")
    return PackManifest.read(path)


def verify_pack(folder: Path) -> PackManifest:
    """Read every byte and compare it with the manifest; a difference is a ``UserError``."""
    manifest = read_manifest(folder)
    for file in manifest.files:
        path = folder / file.path
        found = file_digest(folder, path) if path.is_file() else None
        if found != file:
            what = "is missing" if found is None else "is not what was packed"
            raise UserError(f"{path}: {what}; delete {folder} and pack again")
    return manifest


def file_digest(folder: Path, path: Path) -> FileDigest:
    """Name, size and XXH3-128 of one file of a folder."""
    state = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            state.update(block)
    return FileDigest(
        path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, xxh3=state.hexdigest()
    )


class _Batch(NamedTuple):
    """The columns of one record batch as views of the mapped file."""

    input_ids: NDArray[np.int32]
    """(rows, seq_len)"""
    labels: NDArray[np.int32]
    """(rows, seq_len)"""
    ends: NDArray[np.int32]
    """(rows + 1,): where the lengths of each row begin and end in ``seq_lengths``."""
    seq_lengths: NDArray[np.int32]
    tokens: NDArray[np.int32]
    trained_tokens: NDArray[np.int32]


def _joined(parts: list[NDArray[np.int32]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)


def _mapped(path: Path) -> list[_Batch]:
    try:
        return [_viewed(batch) for batch in pa.ipc.open_stream(pa.memory_map(str(path)))]
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read: {error}; delete the pack and make it again") from None


def _viewed(batch: pa.RecordBatch) -> _Batch:
    lengths = batch.column("seq_lengths")
    return _Batch(
        batch.column("input_ids").values.to_numpy().reshape(batch.num_rows, -1),
        batch.column("labels").values.to_numpy().reshape(batch.num_rows, -1),
        lengths.offsets.to_numpy(),
        lengths.values.to_numpy(),
        batch.column("tokens").to_numpy(),
        batch.column("trained_tokens").to_numpy(),
    )
