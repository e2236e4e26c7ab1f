"""Packed rows as Arrow shards, in the layout that ``datasets.load_from_disk`` opens.

Memory: one record batch of a few MiB. Rows have a fixed length, so that a reader finds any of them
without an index.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import DatasetInfo, Features, List, Value
from numpy.typing import NDArray

from gemfit.data.document import count_trained, labels, token_ids
from gemfit.data.runs import Runs
from gemfit.data.spool import Spool
from gemfit.manifest import SplitCounts

BATCH_BYTES = 4 * 2**20
SHARD_BYTES = 256 * 2**20


def features(seq_len: int) -> Features:
    """The columns of a packed row."""
    row = List(Value("int32"), length=seq_len)
    return Features(
        input_ids=row,
        labels=row,
        seq_lengths=List(Value("int32")),
        document=List(Value("int64")),
        tokens=Value("int32"),
        trained_tokens=Value("int32"),
    )


def write_split(
    folder: Path, spool: Spool, runs: Runs, *, seq_len: int, pad: int, fingerprint: str
) -> SplitCounts:
    """Gather the rows that ``runs`` describes from the spool and write them; count what they hold."""
    folder.mkdir()
    sources = spool.conversations[runs.first]
    ends = np.flatnonzero(np.diff(runs.row, append=-1)) + 1  # runs are sorted by row
    shard_rows = max(1, SHARD_BYTES // (8 * seq_len))
    batch_rows = max(1, BATCH_BYTES // (8 * seq_len))
    num_shards = max(1, -(-len(ends) // shard_rows))
    names = [f"data-{shard:05d}-of-{num_shards:05d}.arrow" for shard in range(num_shards)]
    schema = features(seq_len).arrow_schema
    trained = 0
    for shard, name in enumerate(names):
        stop = min((shard + 1) * shard_rows, len(ends))
        with (folder / name).open("wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for row in range(shard * shard_rows, stop, batch_rows):
                edges = np.concatenate(
                    [ends[row - 1 : row] if row else [0], ends[row : min(row + batch_rows, stop)]]
                )
                batch = _gather(edges, runs, sources, spool, schema, pad)
                trained += int(np.sum(batch["trained_tokens"].to_numpy()))
                writer.write_batch(batch)
    _describe(folder, names, seq_len, fingerprint)
    return SplitCounts(
        rows=len(ends),
        conversations=len(np.unique(sources)),
        documents=len(runs.row),
        tokens=int(runs.lengths.sum(dtype=np.int64)),
        trained_tokens=trained,
    )


def _gather(
    edges: NDArray[np.int64],
    runs: Runs,
    sources: NDArray[np.int64],
    spool: Spool,
    schema: pa.Schema,
    pad: int,
) -> pa.RecordBatch:
    """One batch. edges: (rows + 1,), where the pieces of each row begin and end."""
    rows = list(pairwise(edges.tolist()))
    seq_len = schema.field("input_ids").type.list_size
    words = np.full((len(rows), seq_len), pad, np.uint32)  # pad carries no flag: no label
    for place, (start, stop) in enumerate(rows):
        at = 0
        for first, count, length in zip(*(array[start:stop].tolist() for array in runs[:3]), strict=True):
            spool.read_piece(words[place, at : at + length], first, count)
            at += length
    lengths = [runs.lengths[start:stop] for start, stop in rows]
    columns = [
        _fixed(token_ids(words), schema.field("input_ids").type),
        _fixed(labels(words), schema.field("labels").type),
        _ragged(lengths, np.int32),
        _ragged([sources[start:stop] for start, stop in rows], np.int64),
        pa.array([int(length.sum()) for length in lengths], pa.int32()),
        pa.array([count_trained(row) for row in words], pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _fixed(values: NDArray[np.int32], kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)


def _ragged(values: list[NDArray[np.int32]] | list[NDArray[np.int64]], dtype: type) -> pa.Array:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values).astype(dtype)))


def _describe(folder: Path, names: list[str], seq_len: int, fingerprint: str) -> None:
    """The two files beside the shards by which ``datasets`` knows them."""
    DatasetInfo(features=features(seq_len)).write_to_directory(str(folder))
    state: dict[str, object] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": folder.name,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n")
