"""A ``datasets`` source with a ``messages`` column, as a stream of JSON lines.

Nothing is downloaded whole: rows arrive as they are asked for. A local folder of Parquet or JSON
files is such a source too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from gemfit.data.jsonl.blocks import BLOCK_BYTES, Block
from gemfit.errors import UserError
from gemfit.schemas.pack_job import JobSource

COLUMNS = ("messages", "tools", "functions", "conversations")
"""What a conversation is read from; the rest of a row is not looked at."""


def hub_blocks(source: JobSource, input: int, number: int) -> Iterator[Block]:
    """The blocks of a hub source, numbered from ``number`` on: one row a line."""
    start = rows = size = 0
    lines: list[bytes] = []
    broken: UserError | None = None
    stream = hub_lines(source)
    while broken is None:
        try:
            line = next(stream, None)
        except UserError as error:  # the rows before it come first
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
    """Every row as a JSON line; where the stream breaks off, the rows before it and a ``UserError``."""
    number = 0
    # It takes most of a second to import, and a job on files does not need it.
    from datasets import load_dataset  # noqa: PLC0415

    try:
        stream = load_dataset(source.hub, source.hf_config, split=source.hf_split, streaming=True)
        for row in stream:
            number += 1
            yield orjson.dumps(_readable(row), default=str, option=orjson.OPT_APPEND_NEWLINE)
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


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that say something; without any, the names of all, so that the error can list them."""
    if not any(name in row for name in COLUMNS):
        return dict.fromkeys(row)
    return {name: _given(row[name]) for name in COLUMNS if row.get(name) is not None}


def _given(value: Any) -> Any:
    """Without the keys that a table had to fill because another row has them."""
    if isinstance(value, dict):
        return {key: _given(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_given(item) for item in value]
    return value
