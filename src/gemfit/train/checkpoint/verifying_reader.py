"""Read files of a checkpoint from beginning to end, piece by piece, and compare them with their digests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

import torch
import xxhash

from gemfit.schemas.manifest import FileDigest
from gemfit.train.checkpoint.storage_layout import StoredPiece

READ_BYTES = 2**24


class DamageError(Exception):
    """A file is not what the manifest says; the message says how."""


class VerifyingReader:
    """Reads files one after the other, each from its beginning to its end, and digests them."""

    def __init__(self, folder: Path, files: list[FileDigest]) -> None:
        self._folder, self._left = folder, files
        self._file: FileDigest | None = None
        self._stream: IO[bytes] = io.BytesIO()
        self._digest = xxhash.xxh3_128()

    def read(self, piece: StoredPiece) -> torch.Tensor:
        """The values of ``piece``, flat; pieces come in the order in which they are stored."""
        while self._file is None or self._file.path != piece.file:
            self._next()
        self._take(piece.offset - self._stream.tell())
        content = self._take(piece.length)
        try:
            values: torch.Tensor = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # whatever a changed byte makes of it
            raise DamageError(f"{piece.file} has changed since it was written") from None
        if values.numel() != piece.span[1] - piece.span[0]:
            raise DamageError(f"{piece.file} has changed since it was written")
        return values.reshape(-1)

    def finish(self) -> None:
        """Read what is left; raises ``DamageError`` where a file is not what was written."""
        while self._left or self._file is not None:
            self._next()

    def close(self) -> None:
        self._stream.close()

    def _next(self) -> None:
        """Compare the file that was read, and open the next one."""
        while self._take(READ_BYTES):
            pass
        self._stream.close()
        if self._file is not None and self._digest.hexdigest() != self._file.xxh3:
            raise DamageError(f"{self._file.path} has changed since it was written")
        self._file = self._left.pop(0) if self._left else None
        self._digest = xxhash.xxh3_128()
        if self._file is not None:
            try:
                # Buffered: one call of the kernel returns less than 2 GiB, and a piece may be larger.
                self._stream = (self._folder / self._file.path).open("rb")
            except FileNotFoundError:  # the run may have retired the checkpoint meanwhile
                raise DamageError(f"{self._file.path} is missing") from None
        else:
            self._stream = io.BytesIO()

    def _take(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._digest.update(content)
        return content
