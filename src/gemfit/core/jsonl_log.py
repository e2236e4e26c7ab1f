"""Append-only logs of one JSON record per line, which survive a writer that died within a line."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

SHOWN_LINES = 3
SHOWN_CHARACTERS = 60

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


def parse_lines(
    path: Path, lines: Iterable[bytes], parse: Callable[[bytes], T], *, first_line: Callable[[], int]
) -> list[T]:
    """The records in ``lines`` of ``path``; lines that hold none are skipped with one warning.

    ``first_line`` gives the number of the first line, and is called only for the warning.
    """
    found, skipped = [], []
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            found.append(parse(line))
        # pydantic's ValidationError is a ValueError; brackets in brackets end the recursion.
        except (ValueError, KeyError, TypeError, RecursionError):
            skipped.append((index, line))
    if skipped:
        _warn(path, skipped, first_line())
    return found


def count_lines(path: Path, end: int) -> int:
    """Number of newlines in the first ``end`` bytes of ``path``."""
    with path.open("rb") as stream:
        return stream.read(end).count(b"\n")


def _ends_within_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _warn(path: Path, skipped: list[tuple[int, bytes]], first: int) -> None:
    for index, line in skipped[:SHOWN_LINES]:
        text = line[:SHOWN_CHARACTERS].decode(errors="replace")
        logger.warning("%s:%d: is not a complete record and is skipped: %r", path, first + index, text)
    if len(skipped) > SHOWN_LINES:
        logger.warning("%s: %d more lines are skipped", path, len(skipped) - SHOWN_LINES)
