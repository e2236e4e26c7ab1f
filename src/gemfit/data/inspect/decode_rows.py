"""Read the files of a pack from end to end and check their digests. Memory: one record batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from gemfit.data.inspect.pack_files import RowBatch, as_arrays
from gemfit.data.pack.reader import MANIFEST, PackedRows
from gemfit.schemas.manifest import FileDigest, PackManifest

BLOCK_BYTES = 2**20
LISTS = ("seq_lengths", "document", "starts", "repeated")
"""Columns with one entry per chunk of a row."""


def file_problem(folder: Path, file: FileDigest, read: Callable[[int], None]) -> str | None:
    """An error text if a file is damaged; calls ``read`` with the bytes of every block."""
    path = folder / file.path
    if not path.is_file():
        return f"{path}: is missing"
    state, size = xxhash.xxh3_128(), 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            state.update(block)
            size += len(block)
            read(len(block))
    if size != file.bytes:
        return f"{path}: has {size:,} bytes where {file.bytes:,} were written"
    return None if state.hexdigest() == file.xxh3 else f"{path}: is not what was packed: its digest differs"


def unlisted_files(folder: Path, manifest: PackManifest) -> list[str]:
    """Files in the folder that the manifest does not name."""
    named = {file.path for file in manifest.files} | {MANIFEST}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(set(found) - named)


def read_batches(path: Path, first: int) -> Iterator[RowBatch]:
    """The rows of a file, read instead of mapped for flat memory; bad Arrow is a ``ValueError``."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            offsets = [batch.column(name).offsets for name in LISTS]
            if any(not offsets[0].equals(other) for other in offsets[1:]):
                raise ValueError(f"from row {first:,} on, {', '.join(LISTS)} differ in length")
            yield as_arrays(batch, first)
            first += batch.num_rows


def reader_differences(rows: PackedRows, split: str, batch: RowBatch) -> list[str]:
    """Differences between the batch and what training reads: rows by number, and counts of tokens."""
    here = slice(batch.first, batch.first + len(batch.tokens))
    problems = []
    if not np.array_equal(rows[batch.first].input_ids, batch.input_ids[0]):
        problems.append(f"{split} row {batch.first:,}: its number leads to another row")
    for name, counts, own in (
        ("tokens", rows.tokens[here], batch.tokens),
        ("trained_tokens", rows.trained_tokens[here], batch.trained_tokens),
    ):
        if (wrong := np.flatnonzero(counts != own)).size:
            first = int(wrong[0])
            what = f"its {name} are {own[first]:,}, counted as {counts[first]:,}"
            problems.append(f"{split} row {batch.first + first:,}: {what}")
    return problems
