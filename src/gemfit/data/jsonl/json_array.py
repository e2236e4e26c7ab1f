"""Elements of a JSON array as lines, read as a stream and not decoded: digits and escapes stay as written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from gemfit.data.jsonl.line_parser import LINE_LIMIT
from gemfit.errors import UserError

_READ_BYTES = 2**18
_BLANK = b" \t\r\n"
_STRING = re.compile(rb'[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*', re.DOTALL)
_STRUCTURE = re.compile(rb'[\[\]{},"]')
_OPENING, _CLOSING = b"[{", b"]}"


class Reader(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes: ...


def array_lines(stream: Reader, path: str) -> Iterator[bytes]:
    """Each element on one line, with its line break.

    A broken array is a ``UserError`` after the elements before. An element above ``LINE_LIMIT`` is cut behind
    the limit, so that it is rejected like such a line.
    """
    scanner = _Scanner(stream, path)
    scanner.expect_opening()
    while (element := scanner.next_element()) is not None:
        # Line breaks are between tokens here: inside a string they are refused.
        yield element.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"
    scanner.expect_end()


class _Scanner:
    """Finds the commas and brackets of the outermost array."""

    def __init__(self, stream: Reader, path: str) -> None:
        self._stream, self._path = stream, path
        self._buffer, self._at = b"", 0
        self._head = b""
        """Beginning of the element, as far as it has left the buffer."""
        self._index = 0
        self._closed = False

    def expect_opening(self) -> None:
        """Skip the first bracket."""
        while b"[" not in self._buffer and self._fill():
            pass
        self._at = self._buffer.index(b"[") + 1

    def next_element(self) -> bytes | None:
        """The next element without blanks around it, or ``None`` behind the last."""
        if self._closed:
            return None
        start, depth = self._at, 0
        while True:
            found = _STRUCTURE.search(self._buffer, self._at)
            if found is None:
                start = self._more(start)
                continue
            self._at = found.end()
            mark = found.group()
            if mark == b'"':
                start = self._skip_string(start)
            elif mark in (b"[", b"{"):
                depth += 1
            elif depth and mark != b",":
                depth -= 1
            elif not depth:
                if mark == b"}":
                    raise self._error("holds a closing brace too many")
                return self._element(start, last=mark == b"]")

    def expect_end(self) -> None:
        """Only blanks may follow the array."""
        rest = self._buffer[self._at :]
        while not rest.strip(_BLANK) and (rest := self._stream.read(_READ_BYTES)):
            pass
        if rest.strip(_BLANK):
            raise UserError(
                f"{self._path}: something follows the array; is this one array? Join several with `jq -s add`"
            )

    def _element(self, start: int, *, last: bool) -> bytes | None:
        text = (self._head + self._buffer[start : self._at - 1]).strip(_BLANK)[: LINE_LIMIT + 2]
        self._head, self._closed = b"", last
        if not text:
            if last and not self._index:
                return None
            raise self._error("is missing: two commas, or one before the closing bracket")
        self._index += 1
        return text

    def _skip_string(self, start: int) -> int:
        while True:
            found = _STRING.match(self._buffer, self._at)
            assert found is not None, "it matches the empty text"
            self._at = found.end()
            following = self._buffer[self._at : self._at + 1]
            if following == b'"':
                self._at += 1
                return start
            if following in (b"\r", b"\n"):
                raise self._error("holds a line break inside a string; write it as \\n")
            start = self._more(start)  # also for a backslash at the very end

    def _more(self, start: int) -> int:
        """Read on, and keep what of the element was read; where it starts in the buffer now."""
        if self._at < len(self._buffer) and self._buffer[self._at : self._at + 1] != b"\\":
            self._at = len(self._buffer)
        rest = self._buffer[self._at :]
        if len(self._head) <= LINE_LIMIT + 2:
            self._head += self._buffer[start : self._at]
        self._buffer, self._at = rest, 0
        if not self._fill():
            raise self._error("is cut off, or what follows it: the array is not closed; is it complete?")
        return 0

    def _fill(self) -> bool:
        data = self._stream.read(_READ_BYTES)
        self._buffer += data
        return bool(data)

    def _error(self, what: str) -> UserError:
        return UserError(f"{self._path}[{self._index}]: {what}")
