"""Rows of ``datasets`` sources: a dataset on the Hub at one commit, or a local folder.

Rows are downloaded on demand. A local folder holds Parquet or JSON files, or what ``save_to_disk`` wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemfit.core.hub_commit import cached_snapshot, is_offline
from gemfit.data.jsonl.row_json import row_line
from gemfit.errors import UserError
from gemfit.schemas.find_inputs import is_saved
from gemfit.schemas.pack_job import JobSource


def hub_lines(source: JobSource) -> Iterator[bytes]:
    """Every row as a JSON line; if the stream breaks off, a ``UserError`` after the rows before."""
    number = 0
    try:
        rows = _open(source)
        for row in rows:
            number += 1
            yield row_line(row, rows.features)
    except (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"hf:{source.hub}:{number + 1}: cannot be read (config {source.hf_config}, split "
            f"{source.hf_split}): {first}; check data.source, data.hf_config, data.hf_split and the network"
        ) from None


def _open(source: JobSource) -> Any:
    """The rows, to be iterated once."""
    # The import takes most of a second, and jobs on files do not need it.
    from datasets import DatasetDict, load_dataset, load_from_disk  # noqa: PLC0415

    assert source.hub is not None, "a source of datasets"
    if is_saved(Path(source.hub)):
        if source.hf_config is not None:
            raise ValueError("a folder of save_to_disk has no configurations")
        saved = load_from_disk(source.hub)
        if not isinstance(saved, DatasetDict):
            if source.hf_split != "train":
                raise ValueError("a folder of Dataset.save_to_disk has no splits; remove data.hf_split")
            return saved
        if source.hf_split not in saved:
            raise ValueError(f"its splits are {', '.join(map(str, saved))}")
        return saved[source.hf_split]
    name, revision = source.hub, source.commit
    if revision is not None and is_offline() and (cached := cached_snapshot("dataset", name, revision)):
        name, revision = str(cached), None
    return load_dataset(name, source.hf_config, split=source.hf_split, revision=revision, streaming=True)
