"""Regular files that others may have written or damaged: opened without waiting, read within a limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from gemfit.errors import UserError

MOST_BYTES = 1 << 30
"""Of a file that is read whole. The largest, losses of conversations, take some 50 bytes for each."""


def open_regular(path: Path) -> BinaryIO:
    """``path`` opened for reading; a pipe, socket or device is a ``UserError``.

    Opening a pipe would wait for a writer. Other failures are an ``OSError`` with the name of ``path``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _other_kind(path) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise _other_kind(path)


def read_regular(path: Path) -> bytes:
    """The content of ``path``; one of more than `MOST_BYTES` is a ``UserError``, as above."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MOST_BYTES:
            raise UserError(
                f"{path}: has {size:,} bytes, more than such a file can have ({MOST_BYTES:,}); copy it again"
            )
        return stream.read()


def _other_kind(path: Path) -> UserError:
    return UserError(f"{path}: is a pipe, socket or device in place of a file; remove it")
