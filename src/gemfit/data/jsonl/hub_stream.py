"""Rows of ``datasets`` sources: a dataset on the Hub at one commit, or a local folder.

Rows are downloaded on demand. A local folder holds Parquet or JSON files, or what ``save_to_disk`` wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
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
    from datasets import DatasetDict, load_dataset_builder, load_from_disk  # noqa: PLC0415

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
    builder = load_dataset_builder(name, source.hf_config, revision=revision)
    _check_origin(builder.config.data_files or {}, name, revision)
    return builder.as_streaming_dataset(split=source.hf_split)


def _check_origin(data_files: Mapping[Any, Sequence[str]], name: str, commit: str | None) -> None:
    """Refuse files that a README names, but that neither the commit nor the digests of a folder cover."""
    root = f"{Path(name).absolute()}{os.sep}" if commit is None else f"hf://datasets/{name}@{commit}/"
    for file in chain.from_iterable(data_files.values()):
        inside = str(file).removeprefix(root)
        if inside == str(file) or ".." in Path(inside).parts:
            raise ValueError(f"its README names {file}, which is not a part of it; give that file itself")
        if commit is None and any(part.startswith(".") for part in Path(inside).parts):
            raise ValueError(f"its README names {inside}, a hidden file; rename it")
