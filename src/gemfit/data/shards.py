"""Packed rows as Arrow shards, in the layout that ``datasets.load_from_disk`` opens.

Memory: one record batch of a few MiB. Rows have a fixed length, so that a reader finds any of them
without an index.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import DatasetInfo, Features, List, Value
from numpy.typing import NDArray

from gemfit.data.document import count_trained, labels, token_ids
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
    folder: Path, spool: Spool, bins: NDArray[np.int32], *, seq_len: int, pad: int, fingerprint: str
) -> SplitCounts:
    """Gather the rows that ``bins`` describes from the spool and write them; count what they hold."""
    folder.mkdir()
    row_bytes = 8 * seq_len
    rows = _rows_of(bins)
    shard_rows = max(1, SHARD_BYTES // row_bytes)
    batch_rows = max(1, BATCH_BYTES // row_bytes)
    num_shards = max(1, -(-len(rows) // shard_rows))
    names = [f"data-{shard:05d}-of-{num_shards:05d}.arrow" for shard in range(num_shards)]
    schema = features(seq_len).arrow_schema
    conversations = spool.conversations
    tokens = trained = 0
    for shard, name in enumerate(names):
        mine = rows[shard * shard_rows : (shard + 1) * shard_rows]
        with (folder / name).open("wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for start in range(0, len(mine), batch_rows):
                batch = _gather(mine[start : start + batch_rows], spool, conversations, schema, seq_len, pad)
                tokens += int(np.sum(batch["tokens"].to_numpy()))
                trained += int(np.sum(batch["trained_tokens"].to_numpy()))
                writer.write_batch(batch)
    _describe(folder, names, seq_len, fingerprint)
    return SplitCounts(
        rows=len(rows),
        conversations=len(np.unique(conversations)),
        documents=len(bins),
        tokens=tokens,
        trained_tokens=trained,
    )


def _rows_of(bins: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """The documents of each row, in input order."""
    if not len(bins):
        return []
    order = np.argsort(bins, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(bins[order])) + 1)


def _gather(
    rows: list[NDArray[np.int64]],
    spool: Spool,
    conversations: NDArray[np.int64],
    schema: pa.Schema,
    seq_len: int,
    pad: int,
) -> pa.RecordBatch:
    words = np.full((len(rows), seq_len), pad, np.uint32)  # pad carries no flag: no label
    all_lengths = spool.lengths
    lengths = [all_lengths[row] for row in rows]
    for place, row in enumerate(rows):
        ends = np.cumsum(lengths[place])
        for piece, end, length in zip(row, ends, lengths[place], strict=True):
            spool.read_into(words[place, end - length : end], int(piece))
    columns = [
        _fixed(token_ids(words), schema.field("input_ids").type),
        _fixed(labels(words), schema.field("labels").type),
        _ragged(lengths, np.int32),
        _ragged([conversations[row] for row in rows], np.int64),
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
