"""Split JSONL input into blocks of whole lines, the unit of work of one worker.

A block of a plain file is a fixed range of bytes, so blocks are known without reading the file; a line
belongs to the block in which it starts. Compressed files and hub sources are streams, split while they are
decompressed (see ``prefetch``). Memory: one block and one line.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from gemfit.data.jsonl.line_parser import LINE_LIMIT
from gemfit.errors import UserError

BLOCK_BYTES = 8 * 2**20
READ_BYTES = 2**20
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


def is_compressed(path: Path) -> bool:
    """Whether the file is compressed, by its name."""
    return path.name.endswith((".gz", ".zst"))


def file_blocks(path: Path, size: int, input: int, number: int) -> Iterator[Block]:
    """The blocks of one file, numbered from ``number`` on. size: bytes on disk."""
    if not is_compressed(path):
        for index, start in enumerate(range(0, size, BLOCK_BYTES)):
            stop = min(start + BLOCK_BYTES, size)
            yield Block(number=number + index, input=input, start=start, stop=stop, disk_bytes=stop - start)
        return
    with _decompressed(path) as (raw, stream):
        before = 0
        for block in stream_blocks(stream, str(path), input, number):
            yield Block(
                number=block.number,
                input=input,
                start=block.start,
                stop=block.stop,
                text=block.text,
                lines_before=block.lines_before,
                disk_bytes=raw.tell() - before,
            )
            before = raw.tell()


def stream_blocks(stream: BinaryIO, name: str, input: int, number: int) -> Iterator[Block]:
    """The blocks of a stream; if it breaks off, its complete lines, then a ``UserError``."""
    start = lines = 0
    broken: UserError | None = None
    while broken is None:
        buffers: list[bytes] = []
        try:
            _fill(stream, buffers)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            whole = b"".join(buffers)
            buffers = [whole[: whole.rfind(b"\n") + 1]]
            place = f"{name}:{lines + buffers[0].count(10) + 1}"
            broken = UserError(
                f"{place}: cannot be read further: {error}; is the file complete? Compress it again"
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


def _fill(stream: BinaryIO, buffers: list[bytes]) -> None:
    """Read one block into ``buffers``, so that data before an error is not lost."""
    size = 0
    while size < BLOCK_BYTES and (buffer := stream.read(min(READ_BYTES, BLOCK_BYTES - size))):
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


@contextmanager
def _decompressed(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file, and a stream of its decompressed bytes."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    with raw:
        if path.name.endswith(".gz"):
            yield raw, cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        else:
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            yield raw, io.BufferedReader(reader, READ_BYTES)
