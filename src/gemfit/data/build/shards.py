"""Packed rows as Arrow shards, in the layout that ``datasets.load_from_disk`` opens.

Shards are hashed while they are written. Memory: one record batch of a few MiB per writer. Two index files
next to the shards let a reader find any row without reading others:
``batches.npy`` (shard, first row and byte of every record batch) and ``counts.npy`` (tokens, trained
tokens of every row).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gemfit.data.build.row_gather import BlockFiles, RowArrays, RowBuffers, RowChunks, gather
from gemfit.data.column_file import release_pages
from gemfit.data.jsonl.message_batch import Ints
from gemfit.data.pack.reader import BATCHES, COUNTS
from gemfit.schemas.manifest import FileDigest

BATCH_BYTES = 4 * 2**20
SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitPlan:
    """The rows of a split: the chunks of each row, and where they begin. Arrays: (chunks,), but the last."""

    name: str
    first: Ints
    """The first fragment of each chunk."""
    num_fragments: Ints
    lengths: Ints
    document: Ints
    """Number of the conversation in the pack."""
    row_ends: NDArray[np.int64]
    """(rows + 1,): where the chunks of each row begin and end."""

    @property
    def num_rows(self) -> int:
        """Rows of the split."""
        return len(self.row_ends) - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """The fragments of all blocks, from which rows are gathered."""

    fragments: NDArray[np.void]
    """(fragments,) of type ``FRAGMENT``"""
    paths: list[Path]
    """Of the blocks, by number."""
    seq_len: int
    pad: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """A shard to write: a range of the rows of a split."""

    split: str
    name: str
    number: int
    start: int
    """First row."""
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WrittenShard:
    """A written shard, with its digest and index."""

    digest: FileDigest
    batches: NDArray[np.int64]
    """(batches, 2): first row, and byte of the file."""
    counts: NDArray[np.int64]
    """(2, rows): tokens, trained tokens."""


def shard_jobs(plan: SplitPlan, seq_len: int) -> list[ShardJob]:
    """The shards of a split: about equal numbers of rows, none more than ``SHARD_BYTES``."""
    count = max(1, -(-plan.num_rows * 8 * seq_len // SHARD_BYTES))
    edges = [plan.num_rows * shard // count for shard in range(count + 1)]
    return [
        ShardJob(
            split=plan.name,
            name=f"data-{shard:05d}-of-{count:05d}.arrow",
            number=shard,
            start=edges[shard],
            stop=edges[shard + 1],
        )
        for shard in range(count)
    ]


def write_shard(
    folder: Path, job: ShardJob, plan: SplitPlan, source: Source, on_rows: Callable[[int], None]
) -> WrittenShard:
    """Gather and write the rows of one shard; ``on_rows`` gets the number of rows of each batch."""
    batch_rows = max(1, BATCH_BYTES // (8 * source.seq_len))
    schema = row_schema(source.seq_len)
    files, buffers = BlockFiles.of(source.paths), RowBuffers.of(batch_rows, source.seq_len)
    edges: list[tuple[int, int]] = []
    counts: list[NDArray[np.int64]] = [np.empty((2, 0), np.int64)]
    path = folder / job.split / job.name
    try:
        with path.open("wb", buffering=0) as file:
            sink = _Hashed(file)
            with pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema) as writer:
                for start in range(job.start, job.stop, batch_rows):
                    # The schema goes out together with the first batch.
                    edges.append((start, sink.size or schema.serialize().size))
                    stop = min(start + batch_rows, job.stop)
                    batch, rows = _batch(plan, start, stop, source, files, buffers, schema)
                    writer.write_batch(batch)
                    counts.append(np.stack([rows.tokens, rows.trained]).astype(np.int64))
                    release_pages(source.fragments)
                    on_rows(stop - start)
    finally:
        files.close()
    digest = FileDigest(path=f"{job.split}/{job.name}", bytes=sink.size, xxh3=sink.hexdigest())
    return WrittenShard(
        digest=digest,
        batches=np.array(edges, np.int64).reshape(-1, 2),
        counts=np.concatenate(counts, axis=1),
    )


def describe_split(
    folder: Path, name: str, seq_len: int, fingerprint: str, shards: list[WrittenShard]
) -> None:
    """Write the other files of a split: the metadata of ``datasets``, and the two index files."""
    batches = [
        np.column_stack([np.full(len(shard.batches), number), shard.batches])
        for number, shard in enumerate(shards)
    ]
    np.save(folder / BATCHES, np.concatenate(batches).astype(np.int64))
    np.save(folder / COUNTS, np.concatenate([shard.counts for shard in shards], axis=1))
    _write_json(
        folder / "dataset_info.json", {"citation": "", "description": "", "features": _features(seq_len)}
    )
    state: dict[str, Any] = {
        "_data_files": [{"filename": Path(shard.digest.path).name} for shard in shards],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": name,
    }
    _write_json(folder / "state.json", state)


def row_schema(seq_len: int) -> pa.Schema:
    """Arrow schema of a packed row, with the features metadata of ``datasets``."""
    row = pa.list_(pa.int32(), seq_len)
    fields = [
        ("input_ids", row),
        ("labels", row),
        ("seq_lengths", pa.list_(pa.int32())),
        ("document", pa.list_(pa.int64())),
        ("starts", pa.list_(pa.int32())),
        ("repeated", pa.list_(pa.int32())),
        ("tokens", pa.int32()),
        ("trained_tokens", pa.int32()),
    ]
    described = json.dumps({"info": {"features": _features(seq_len)}})
    return pa.schema(fields, metadata={"huggingface": described})


def as_arrow(values: NDArray[Any]) -> pa.Array:
    """Integers as an Arrow array over the same memory; ``pa.array`` would import pandas for it."""
    contiguous = np.ascontiguousarray(values)
    buffers = [None, pa.py_buffer(contiguous)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(contiguous.dtype), len(contiguous), buffers)


def _batch(
    plan: SplitPlan,
    start: int,
    stop: int,
    source: Source,
    files: BlockFiles,
    buffers: RowBuffers,
    schema: pa.Schema,
) -> tuple[pa.RecordBatch, RowArrays]:
    ends = plan.row_ends[start : stop + 1]
    chosen = slice(int(ends[0]), int(ends[-1]))
    first, lengths = plan.first[chosen], plan.lengths[chosen]
    ends = ends - ends[0]
    chunks = RowChunks(first, plan.num_fragments[chosen], lengths, ends)
    rows = gather(chunks, source.fragments, files, buffers, pad=source.pad)
    offsets = as_arrow(ends.astype(np.int32))
    begin = source.fragments[first]
    ragged = (lengths, plan.document[chosen].astype(np.int64), begin["start"], begin["context"])
    columns = [
        *(_fixed(values, source.seq_len) for values in (rows.input_ids, rows.labels)),
        *(pa.ListArray.from_arrays(offsets, as_arrow(values)) for values in ragged),
        as_arrow(rows.tokens),
        as_arrow(rows.trained),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema), rows


def _fixed(values: NDArray[np.int32], seq_len: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(as_arrow(values.reshape(-1)), type=pa.list_(pa.int32(), seq_len))


def _features(seq_len: int) -> dict[str, Any]:
    """The features of ``datasets`` as JSON, without importing it, which takes half a second."""
    row = {"feature": _value("int32"), "length": seq_len, "_type": "List"}
    ragged = {
        name: {"feature": _value(kind), "_type": "List"}
        for name, kind in (
            ("seq_lengths", "int32"),
            ("document", "int64"),
            ("starts", "int32"),
            ("repeated", "int32"),
        )
    }
    scalars = {name: _value("int32") for name in ("tokens", "trained_tokens")}
    return {"input_ids": row, "labels": row, **ragged, **scalars}


def _value(kind: str) -> dict[str, str]:
    return {"dtype": kind, "_type": "Value"}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


class _Hashed:
    """A file that computes the digest of what is written to it."""

    def __init__(self, file: BinaryIO | Any) -> None:
        self._file, self._state, self.size = file, xxhash.xxh3_128(), 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._state.update(view)
        self.size += view.nbytes
        size = view.nbytes
        while view:
            view = view[self._file.write(view) :]
        return size

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        self.closed = True

    def hexdigest(self) -> str:
        return str(self._state.hexdigest())
