"""Rows of a Parquet file as JSON lines, with the types that ``datasets`` stored in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gemfit.data.jsonl.row_json import row_line
from gemfit.errors import UserError

_BATCH_ROWS = 256


def parquet_lines(path: Path) -> Iterator[bytes]:
    """Each row as one line; a file that cannot be read is a ``UserError`` after the rows before."""
    # They take a second to import, and other files do not need them.
    import pyarrow  # noqa: PLC0415
    from datasets import Features  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    number = 0
    try:
        with ParquetFile(path) as file:
            _check_names(file.schema_arrow.names)
            features = _features(Features, file.schema_arrow)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    known = {name: value for name, value in row.items() if name in features}
                    yield row_line(row | features.decode_example(known), features)
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}:{number + 1}: cannot be read as Parquet: {first}") from None


def _check_names(names: Sequence[str]) -> None:
    """A row as an object would keep the last of two columns of one name."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"it has the column {twice!r} twice; rename one of them")


def _features(features: Any, schema: Any) -> Any:
    """Features of a schema, without columns whose types ``datasets`` does not know, such as maps."""
    try:
        return features.from_arrow_schema(schema)
    except ValueError:
        pass
    found: dict[str, Any] = {}
    for name in schema.names:
        with suppress(ValueError):
            found |= features.from_arrow_schema(schema.empty_table().select([name]).schema)
    return features(found)
