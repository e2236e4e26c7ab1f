"""Blocks of one input file of any kind and compression."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from gemfit.data.jsonl import blocks
from gemfit.data.jsonl.blocks import BOM, Block, stream_blocks
from gemfit.data.jsonl.csv_rows import csv_lines
from gemfit.data.jsonl.decompress import DECOMPRESSION_ERRORS, decompressed
from gemfit.data.jsonl.json_array import array_lines
from gemfit.data.jsonl.line_blocks import line_blocks
from gemfit.data.jsonl.parquet_rows import parquet_lines
from gemfit.errors import UserError
from gemfit.schemas.source_file import SourceFile


def file_blocks(file: SourceFile, input: int, number: int) -> Iterator[Block]:
    """The blocks of one file, numbered from ``number`` on. What cannot be read is a ``UserError``."""
    if file.kind == "parquet":
        yield from _counted(line_blocks(parquet_lines(Path(file.path)), input, number), file.bytes)
    elif file.kind == "jsonl" and file.compression is None:
        yield from _plain(file, input, number)
    else:
        with _opened(file) as (raw, stream):
            before = 0
            for block in _streamed(stream, file, input, number):
                yield replace(block, disk_bytes=raw.tell() - before)
                before = raw.tell()


def _plain(file: SourceFile, input: int, number: int) -> Iterator[Block]:
    for index, start in enumerate(range(0, file.bytes, blocks.BLOCK_BYTES)):
        stop = min(start + blocks.BLOCK_BYTES, file.bytes)
        yield Block(number=number + index, input=input, start=start, stop=stop, disk_bytes=stop - start)


def _streamed(stream: io.BufferedReader, file: SourceFile, input: int, number: int) -> Iterator[Block]:
    if file.kind == "csv":
        return line_blocks(_explained(csv_lines(stream, file.path), file.path), input, number)
    if file.kind == "json" and _begins_array(stream):
        lines = _explained(array_lines(stream, file.path), file.path)
        return line_blocks(lines, input, number, in_array=True)
    return stream_blocks(stream, file.path, input, number)


def _opened(file: SourceFile) -> AbstractContextManager[tuple[BinaryIO, io.BufferedReader]]:
    if file.compression is not None:
        return decompressed(Path(file.path), file.compression)
    return _uncompressed(Path(file.path))


@contextmanager
def _uncompressed(path: Path) -> Iterator[tuple[BinaryIO, io.BufferedReader]]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    with stream:
        yield stream, stream


def _begins_array(stream: io.BufferedReader) -> bool:
    """Whether the first character that is not blank is an opening bracket; the stream stays where it is."""
    try:
        return stream.peek().removeprefix(BOM).lstrip()[:1] == b"["
    except DECOMPRESSION_ERRORS:  # explained when it is read
        return False


def _explained(lines: Iterator[bytes], path: str) -> Iterator[bytes]:
    """The lines; a stream that breaks off is a ``UserError``."""
    try:
        yield from lines
    except DECOMPRESSION_ERRORS as error:
        raise UserError(
            f"{path}: cannot be read further: {error}; is the file complete? Copy or compress it again"
        ) from None


def _counted(found: Iterator[Block], size: int) -> Iterator[Block]:
    """The blocks; the last one counts for all bytes on disk."""
    last: Block | None = None
    for block in found:
        if last is not None:
            yield last
        last = block
    if last is not None:
        yield replace(last, disk_bytes=size)
