"""Split JSONL input into blocks of whole lines, the unit of work of one worker.

A block of a plain file is a fixed range of bytes, so blocks are known without reading the file; a line
belongs to the block in which it starts. Other files are streams (``file_blocks``), split while they are read
(``prefetch``). Memory: one block and one line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gemfit.data.jsonl.decompress import DECOMPRESSION_ERRORS, READ_BYTES
from gemfit.data.jsonl.line_parser import LINE_LIMIT
from gemfit.errors import UserError

BLOCK_BYTES = 8 * 2**20
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A range of whole lines in a file, or the lines themselves if they come from a stream."""

    number: int
    """In input order over all inputs."""
    input: int
    """Index into the inputs of the job."""
    start: int
    """First byte, after decompression."""
    stop: int
    text: bytes | None = None
    lines_before: int | None = None
    """Lines of the same input before it; `None` if not counted yet."""
    disk_bytes: int
    """Bytes of the file on disk, for the progress bar."""
    in_array: bool = False
    """Whether its lines are elements of a JSON array."""

    def place(self, path: str, line: int) -> str:
        """Where a line of the input is."""
        return line_place(path, line, in_array=self.in_array)


def line_place(path: str, line: int, *, in_array: bool) -> str:
    """Where a line of an input is: `path:line` from 1, of an array `path[index]` from 0."""
    return f"{path}[{line - 1}]" if in_array else f"{path}:{line}"


def stream_blocks(stream: io.BufferedIOBase, name: str, input: int, number: int) -> Iterator[Block]:
    """The blocks of a stream; if it breaks off, its complete lines, then a ``UserError``."""
    start = lines = 0
    broken: UserError | None = None
    while broken is None:
        buffers: list[bytes] = []
        try:
            _fill(stream, buffers)
        except DECOMPRESSION_ERRORS as error:
            whole = b"".join(buffers)
            buffers = [whole[: whole.rfind(b"\n") + 1]]
            place = f"{name}:{lines + buffers[0].count(10) + 1}"
            broken = UserError(
                f"{place}: cannot be read further: {error}; is the file complete? Copy or compress it again"
            )
        text = b"".join(buffers)
        if not text:
            break
        yield Block(
            number=number,
            input=input,
            start=start,
            stop=start + len(text),
            text=text if start else text.removeprefix(BOM),
            lines_before=lines,
            disk_bytes=0,
        )
        number, start, lines = number + 1, start + len(text), lines + count_lines(text)
    if broken is not None:
        raise broken


def read_block(path: Path, start: int, stop: int) -> bytes:
    """The lines of a plain file that start from byte ``start`` up to before ``stop``.

    A line longer than ``LINE_LIMIT`` is read only as far as the parser needs to reject it.
    """
    try:
        with path.open("rb", buffering=0) as file:
            # One byte earlier: a line starts at ``start`` if the byte before it is a line break.
            file.seek(max(0, start - 1))
            text = _read_exactly(file, stop - max(0, start - 1))
            if start:
                first = text.find(b"\n", 0, -1)
                if first < 0:
                    return b""
                text = text[first + 1 :]
            elif text.startswith(BOM):
                text = text[len(BOM) :]
            return text if text.endswith(b"\n") else text + _rest_of_line(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def count_lines(text: bytes) -> int:
    """Lines in a block; the last one may lack its end."""
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def lines_before(path: Path, start: int) -> int:
    """Lines of a plain file in the blocks before byte ``start``; reads up to there."""
    if start == 0:
        return 0
    count, left = 1, start - 1  # the line break that the block looks for first is still to come
    with path.open("rb") as file:
        while left and (buffer := file.read(min(left, READ_BYTES))):
            count += buffer.count(b"\n")
            left -= len(buffer)
    return count


def _fill(stream: io.BufferedIOBase, buffers: list[bytes]) -> None:
    """Read one block into ``buffers``, so that data before an error is not lost: ``read`` would lose it."""
    size = 0
    while size < BLOCK_BYTES and (buffer := stream.read1(min(READ_BYTES, BLOCK_BYTES - size))):
        buffers.append(buffer)
        size += len(buffer)
    if not buffers or buffers[-1].endswith(b"\n"):
        return
    rest = stream.readline(LINE_LIMIT + 2)
    buffers.append(rest)
    if len(rest) == LINE_LIMIT + 2 and not rest.endswith(b"\n"):
        while (more := stream.readline(READ_BYTES)) and not more.endswith(b"\n"):
            pass
        buffers.append(b"\n")


def _read_exactly(file: io.RawIOBase | io.FileIO, size: int) -> bytes:
    parts: list[bytes] = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _rest_of_line(file: io.FileIO) -> bytes:
    """The rest of a line after the block, up to a little more than the limit."""
    parts: list[bytes] = []
    size = 0
    while size <= LINE_LIMIT and (part := file.read(2**16)):
        end = part.find(b"\n")
        if end >= 0:
            parts.append(part[: end + 1])
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)
