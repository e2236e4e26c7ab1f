"""Blocks of inputs that are rows or elements, not lines: each becomes one line of JSON."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.data.jsonl.blocks import BLOCK_BYTES, Block
from gemfit.errors import UserError


def line_blocks(
    stream: Iterator[bytes], input: int, number: int, *, in_array: bool = False
) -> Iterator[Block]:
    """The blocks of lines, numbered from ``number`` on; an error is raised after the lines before it."""
    start = rows = size = 0
    lines: list[bytes] = []
    broken: UserError | None = None
    while broken is None:
        try:
            line = next(stream, None)
        except UserError as error:
            broken, line = error, None
        if line is not None:
            lines.append(line)
            size += len(line)
        if lines and (line is None or size >= BLOCK_BYTES):
            yield _block(number, input, start, rows, lines, in_array)
            number, start, rows = number + 1, start + size, rows + len(lines)
            lines, size = [], 0
        if line is None:
            break
    if broken is not None:
        raise broken


def _block(number: int, input: int, start: int, rows: int, lines: list[bytes], in_array: bool) -> Block:
    text = b"".join(lines)
    return Block(
        number=number,
        input=input,
        start=start,
        stop=start + len(text),
        text=text,
        lines_before=rows,
        disk_bytes=0,
        in_array=in_array,
    )
