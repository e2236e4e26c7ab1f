"""Follow the logs of a run over all its attempts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gemfit.core.regular_file import open_regular
from gemfit.rundir import RunDir

POLL_SECONDS = 0.5
BLOCK_BYTES = 1 << 20
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
"""Of UTF-8, also within a block that ends in the middle of a character."""


def follow(run: RunDir, first: int, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    """Output of the attempts from ``first`` on, each after a headline, until the run has ended.

    ``goes_on`` is called once everything is read; it may be expensive.
    """
    for attempt in _attempts(run, first, goes_on):
        yield headline(attempt, run.log(attempt))
        yield from _grow(run, attempt, goes_on)


def _attempts(run: RunDir, first: int, goes_on: Callable[[], bool]) -> Iterator[int]:
    attempt = max(1, first)
    while True:
        if run.attempt >= attempt:
            yield attempt
            attempt += 1
        elif not goes_on():
            return
        else:
            time.sleep(POLL_SECONDS)


def _grow(run: RunDir, attempt: int, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    """The log of one attempt, until a newer one has begun or the run has ended."""
    path, offset, ends_within_a_line = run.log(attempt), 0, False
    while True:
        is_last = run.attempt == attempt and goes_on()  # asked before the last look at the file
        for block in _read_from(path, offset):
            offset += len(block)
            yield block
            ends_within_a_line = not block.endswith(b"\n")
        if not is_last:
            if ends_within_a_line:
                yield b"\n"
            return
        time.sleep(POLL_SECONDS)


def headline(attempt: int, path: Path) -> bytes:
    """The line above the log of an attempt."""
    return f"==> attempt {attempt}: {path} <==\n".encode()


def last_lines(path: Path, count: int | None) -> Iterator[bytes]:
    """The last ``count`` lines of a log, or all, in blocks, with a newline at the end; none without a log."""
    block = b"\n"
    for block in _read_from(path, 0 if count is None else _start_of_last(path, count)):
        yield block
    if not block.endswith(b"\n"):
        yield b"\n"


def printable_log(block: bytes) -> bytes:
    """``block`` with control characters as escapes; line breaks, tabs and carriage returns stay."""
    return _CONTROL_BYTES.sub(lambda found: ascii(found[0].decode())[1:-1].encode(), block)


def _start_of_last(path: Path, count: int) -> int:
    """Byte where the last ``count`` lines begin, found from the end."""
    if not path.is_file():
        return 0
    with open_regular(path) as stream:
        end = at = stream.seek(0, os.SEEK_END)
        while at > 0:
            start = max(0, at - BLOCK_BYTES)
            stream.seek(start)
            block = stream.read(at - start)
            stop = len(block) - (at == end and block.endswith(b"\n"))  # which ends the last line
            while (newline := block.rfind(b"\n", 0, stop)) >= 0:
                count -= 1
                if count == 0:
                    return start + newline + 1
                stop = newline
            at = start
    return 0


def _read_from(path: Path, offset: int) -> Iterator[bytes]:
    if not path.is_file():
        return
    with open_regular(path) as stream:
        stream.seek(offset)
        while block := stream.read(BLOCK_BYTES):
            yield block
