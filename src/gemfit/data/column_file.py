"""Temporary columns on disk: append-only while they are written, memory-mapped afterwards.

The files have no name, so nothing remains of them however a process ends. Mapped pages belong to the kernel,
which drops them when it needs memory; ``release_pages`` (madvise) takes them off this process.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gemfit.data.compiled import external

SLICE_ENTRIES = 2**16
"""Entries processed at a time, so that temporary arrays stay small."""
MIN_RELEASED_BYTES = 2**23
"""Smaller columns are not worth the page faults that bring their pages back."""
pread = external("pread", "int64", "int32", "uint64", "uint64", "int64")
"""For kernels: descriptor, address, bytes, offset; what it reads is not counted as mapped pages."""


class ColumnFile:
    """One column: (entries,), or (entries, width). Takes no memory while it grows."""

    def __init__(self, folder: Path | None, dtype: DTypeLike, width: int | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.width = width
        self._file: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed below)
        self._entries = 0
        # The file is deleted with its column, however a build ends.
        self._close = weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._entries

    @property
    def descriptor(self) -> int:
        """File descriptor for reads of single entries, until the column is closed."""
        return int(self._file.fileno())

    def append(self, values: NDArray[Any]) -> None:
        """Add entries; a full disk is an ``OSError``."""
        left = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data
        while left:
            left = left[self._file.write(left) :]
        self._entries += len(values)

    def mapped(self) -> NDArray[Any]:
        """All entries, read-only; stays valid when the file is closed."""
        shape = (self._entries,) if self.width is None else (self._entries, self.width)
        if not self._entries or not all(shape):
            return np.empty(shape, self.dtype)
        return np.memmap(self._file, self.dtype, "r", shape=shape)

    def close(self) -> None:
        """Close the file, which is deleted once nothing maps it."""
        self._close()


def release_pages(*columns: NDArray[Any]) -> None:
    """Take the pages of mapped columns off this process; the page cache keeps them."""
    for column in columns:
        if isinstance(column, np.memmap) and column.nbytes > MIN_RELEASED_BYTES:
            column._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def slices(count: int, size: int = SLICE_ENTRIES) -> Iterator[slice]:
    """Slices of ``size`` entries that cover ``count`` entries."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
