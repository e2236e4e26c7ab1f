"""Decompressed streams of gzip, bzip2, xz and Zstandard files, strict about their end.

A file holds one or more members (Zstandard: frames) and must end with a whole one. The readers of the
libraries do not all notice a stream that breaks off, nor what follows its first member, so members are
decompressed one by one here.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from gemfit.errors import UserError

READ_BYTES = 2**20
_INPUT_BYTES = 2**14
"""Compressed bytes per call: bounds what Zstandard, which takes no output limit, returns at once."""
_MAX_WINDOW = 2**31
"""As of `zstd --long=31`, the largest that there is."""
DECOMPRESSION_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj(),
}
_PADDED = ("gzip", "xz")
"""Formats that allow zero bytes after a member."""


@contextmanager
def decompressed(path: Path, compression: str) -> Iterator[tuple[BinaryIO, io.BufferedReader]]:
    """The file, whose position tells the progress, and a stream of its decompressed bytes."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    with raw:
        yield raw, io.BufferedReader(_Members(raw, compression), READ_BYTES)


class _Members(io.RawIOBase):
    """Decompressed bytes of all members; ``EOFError`` where the last one breaks off."""

    def __init__(self, raw: BinaryIO, compression: str) -> None:
        self._raw, self._compression = raw, compression
        self._decompressor: Any = None
        self._input = b""
        self._output = memoryview(b"")
        self._padded = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._raw.read(_INPUT_BYTES)
            if self._decompressor is None and not self._begin():
                return 0
            self._output = memoryview(self._decompress())
        size = min(len(buffer), len(self._output))
        buffer[:size], self._output = self._output[:size], self._output[size:]
        return size

    def _begin(self) -> bool:
        """Begin the next member; False at the end of the file."""
        while self._padded and self._input and not self._input.strip(b"\0"):
            self._input = self._raw.read(_INPUT_BYTES)
        if self._padded:
            self._input = self._input.lstrip(b"\0")
        if not self._input:
            return False
        self._decompressor = _DECOMPRESSORS[self._compression]()
        self._padded = self._compression in _PADDED
        return True

    def _decompress(self) -> bytes:
        if not self._input:
            raise EOFError("the compressed stream ends before its end-of-stream marker")
        text: bytes = self._decompressor.decompress(self._input)
        self._input = b""
        if self._decompressor.eof:
            self._input, self._decompressor = self._decompressor.unused_data, None
        return text
