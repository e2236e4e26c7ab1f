"""Streaming Hub datasets: a ``datasets`` source with a ``messages`` column as JSON lines.

Rows are downloaded on demand. A local folder of Parquet or JSON files is such a source, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from gemfit.data.jsonl.blocks import BLOCK_BYTES, Block
from gemfit.errors import UserError
from gemfit.schemas.pack_job import JobSource

COLUMNS = ("messages", "tools", "functions", "conversations")
"""Columns of a conversation; others are ignored."""


def hub_blocks(source: JobSource, input: int, number: int) -> Iterator[Block]:
    """The blocks of a hub source, numbered from ``number`` on, one row per line."""
    start = rows = size = 0
    lines: list[bytes] = []
    broken: UserError | None = None
    stream = hub_lines(source)
    while broken is None:
        try:
            line = next(stream, None)
        except UserError as error:  # after the rows before it
            broken, line = error, None
        if line is not None:
            lines.append(line)
            size += len(line)
        if lines and (line is None or size >= BLOCK_BYTES):
            yield _block(number, input, start, rows, lines)
            number, start, rows = number + 1, start + size, rows + len(lines)
            lines, size = [], 0
        if line is None:
            break
    if broken is not None:
        raise broken


def hub_lines(source: JobSource) -> Iterator[bytes]:
    """Every row as a JSON line; if the stream breaks off, a ``UserError`` after the rows before."""
    number = 0
    # The import takes most of a second, and jobs on files do not need it.
    from datasets import load_dataset  # noqa: PLC0415

    try:
        stream = load_dataset(source.hub, source.hf_config, split=source.hf_split, streaming=True)
        for row in stream:
            number += 1
            yield orjson.dumps(_conversation_columns(row), default=str, option=orjson.OPT_APPEND_NEWLINE)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"hf:{source.hub}:{number + 1}: cannot be read (config {source.hf_config}, split "
            f"{source.hf_split}): {first}; check data.source, data.hf_config, data.hf_split and the network"
        ) from None


def _block(number: int, input: int, start: int, rows: int, lines: list[bytes]) -> Block:
    text = b"".join(lines)
    return Block(
        number=number,
        input=input,
        start=start,
        stop=start + len(text),
        text=text,
        lines_before=rows,
        disk_bytes=len(text),
    )


def _conversation_columns(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a conversation; without any of them all names, for the error message."""
    if not any(name in row for name in COLUMNS):
        return dict.fromkeys(row)
    return {name: _without_nulls(row[name]) for name in COLUMNS if row.get(name) is not None}


def _without_nulls(value: Any) -> Any:
    """Without null values, which tables add for keys of other rows."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
