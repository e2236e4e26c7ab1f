"""Append-only logs of one JSON record per line, which survive a writer that died within a line."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from gemfit.core.regular_file import open_regular

T = TypeVar("T")

SHOWN_LINES = 3
SHOWN_CHARACTERS = 60
LONGEST_LINE = 1 << 24
"""Bytes; a longer line is read in parts, none of which is a record."""

logger = logging.getLogger(__name__)


class JsonRecord(Protocol):
    """Anything with a JSON form of one line, such as a pydantic model."""

    def model_dump_json(self) -> str:
        """The record as JSON."""


def append_record(path: Path, record: JsonRecord) -> None:
    """Add a line to ``path``; several threads may do so at once.

    Begins a new line where the file ends within one: a crash, a full disk or a lost node may have cut it.
    """
    line = record.model_dump_json().encode() + b"\n"
    # Unbuffered, so that the line reaches the file system as one write.
    with path.open("a+b", buffering=0) as stream:
        if _ends_within_a_line(stream.fileno()):
            line = b"\n" + line
        while line:  # a signal or a full disk may shorten a write
            line = line[stream.write(line) :]


def read_log(path: Path, parse: Callable[[bytes], T]) -> list[T]:
    """The records in ``path``, as ``parse_lines`` finds them. Memory: the records and one line."""
    with open_regular(path) as stream:
        return parse_lines(path, read_lines(stream), parse, first_line=lambda: 1)


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of ``stream`` with their ends; a line of more than `LONGEST_LINE` bytes in parts."""
    while line := stream.readline(LONGEST_LINE):
        yield line


def has_whole_line(path: Path) -> bool:
    """Whether ``path`` has a line that is neither blank nor cut at the end of the file."""
    with open_regular(path) as stream:
        return any(line.strip() and line.endswith(b"\n") for line in read_lines(stream))


def parse_lines(
    path: Path, lines: Iterable[bytes], parse: Callable[[bytes], T], *, first_line: Callable[[], int]
) -> list[T]:
    """The records in ``lines`` of ``path``; lines that hold none are skipped with one warning.

    ``first_line`` gives the number of the first line, and is called only for the warning.
    """
    found: list[T] = []
    shown: list[tuple[int, bytes]] = []
    skipped = 0
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            found.append(parse(line))
        # pydantic's ValidationError is a ValueError; brackets in brackets end the recursion.
        except (ValueError, KeyError, TypeError, RecursionError):
            skipped += 1
            if len(shown) < SHOWN_LINES:
                shown.append((index, line[: 4 * SHOWN_CHARACTERS]))
    if skipped:
        _warn(path, shown, skipped, first_line())
    return found


def count_lines(path: Path, end: int) -> int:
    """Number of newlines in the first ``end`` bytes of ``path``."""
    count = 0
    with open_regular(path) as stream:
        while end > 0 and (block := stream.read(min(end, LONGEST_LINE))):
            count += block.count(b"\n")
            end -= len(block)
    return count


def _ends_within_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _warn(path: Path, shown: list[tuple[int, bytes]], skipped: int, first: int) -> None:
    for index, line in shown:
        text = line.rstrip(b"\n").decode(errors="replace")[:SHOWN_CHARACTERS]
        logger.warning("%s:%d: is not a complete record and is skipped: %r", path, first + index, text)
    if skipped > len(shown):
        logger.warning("%s: %d more lines are skipped", path, skipped - len(shown))
