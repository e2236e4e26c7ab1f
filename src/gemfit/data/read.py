"""Stream conversations from JSONL files and from ``datasets`` sources.

Memory: one line. A line longer than ``LINE_LIMIT`` bytes is refused unread, so that one bad line
cannot take the machine.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import orjson
import zstandard

from gemfit.data.conversation import SHAPE, Conversation, parse_conversation
from gemfit.errors import UserError

LINE_LIMIT = 8 * 2**20
"""Longest line in bytes: some two million tokens, a hundred times the longest of real conversations."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One line that is no conversation."""

    place: str
    reason: str


@dataclass(slots=True)
class Tally:
    """What has been read so far."""

    lines: int = 0
    blank: int = 0
    rejected: int = 0
    bytes: int = 0
    """Of the files on disk, so compressed ones count as they are."""
    reject: Callable[[Rejection], None] | None = field(default=None, repr=False)
    """Called for each bad line; `None` raises its `UserError` instead."""

    def guard(self, error: UserError, place: str) -> None:
        """Refuse one line: raise, or count it and tell ``reject``."""
        reject_line(error, place, self.reject)
        self.rejected += 1


def reject_line(error: UserError, place: str, reject: Callable[[Rejection], None] | None) -> None:
    """Tell ``reject`` what is wrong with a line; without one, raise."""
    if reject is None:
        raise error
    reject(Rejection(place, str(error).removeprefix(f"{place}: ")))


def read_line(line: bytes | None, place: str) -> Conversation:
    """The conversation of one line without its end; None stands for one above ``LINE_LIMIT``."""
    return parse_conversation(_decoded(line, place), place)


def read_files(paths: list[Path], tally: Tally) -> Iterator[Conversation]:
    """Every valid line of every file, in order, as a conversation."""
    for path in paths:
        before = tally.bytes
        with _opened(path) as (raw, stream):
            for number, line in _lines(path, stream):
                tally.lines += 1
                tally.bytes = before + raw.tell()
                yield from _conversation(line, f"{path}:{number}", tally)
            tally.bytes = before + raw.tell()


def _conversation(line: bytes | None, place: str, tally: Tally) -> Iterator[Conversation]:
    if line is not None and not line.strip():
        tally.blank += 1
        return
    try:
        conversation = read_line(line, place)
    except UserError as error:
        tally.guard(error, place)
        return
    yield conversation


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file, and the stream of its decompressed bytes."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    with raw:
        if path.name.endswith(".gz"):
            yield raw, cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        elif path.name.endswith(".zst"):
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            yield raw, io.BufferedReader(reader, 2**20)
        else:
            yield raw, raw


def _lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines without their end; ``None`` stands for one above the limit."""
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(LINE_LIMIT + 1)
            too_long = len(line) > LINE_LIMIT and not line.endswith(b"\n")
            while too_long and (more := stream.readline(2**20)) and not more.endswith(b"\n"):
                pass
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UserError(
                f"{path}:{number}: cannot be read further: {error}; is the file complete? Compress it again"
            ) from None
        if not line:
            return
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        yield number, None if too_long else line.rstrip(b"\r\n")


def _decoded(line: bytes | None, place: str) -> object:
    if line is None:
        raise UserError(
            f"{place}: the line is longer than {LINE_LIMIT // 2**20} MiB, the limit for one conversation; "
            "split the conversation, or check that the file has one conversation a line"
        )
    if b"\0" in line:
        raise UserError(f"{place}: holds a NUL byte at byte {line.index(0) + 1}; is this a text file?")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{place}: {_why_no_json(line, error)}") from None


def _why_no_json(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as wrong:
        return (
            f"is not UTF-8: byte 0x{line[wrong.start]:02x} at byte {wrong.start + 1}; "
            "convert the file to UTF-8 (iconv -t UTF-8)"
        )
    if "surrogate" in error.msg:
        return "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it"
    start = text[:30] + ("…" if len(text) > 30 else "")
    return f"is not JSON: {error.msg} at column {error.colno}, in {start!r}; write {SHAPE} on one line"
