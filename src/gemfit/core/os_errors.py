"""Errors of the operating system that are no bug, in words with a way out."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemfit.errors import UserError

MACHINE_LIMITS = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "this machine has no more open files to give",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EIO: "the disk or the way to it fails; try again, or ask its administrators",
}
"""Those that are no bug wherever they occur, and the way out."""
FILE_ERRORS = {
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EACCES: "ask its owner for access, or use another place",
    errno.EPERM: "ask its owner for access, or use another place",
    errno.EROFS: "it can only be read; use another place",
    errno.EEXIST: "something else is in its place; move it away",
    errno.EISDIR: "a folder is in place of a file; move it away",
    errno.ENOTDIR: "a file is in place of a folder; use another place",
    errno.ELOOP: "links lead in a circle; remove one",
    errno.ESTALE: "the file server does not know it any more; try again",
}
"""Those that are no bug where a path comes with them; without one, such as of a signal, they may be."""
LONGEST_NAME = 300
"""Characters of a path in an error; a longer one is most likely no path."""
_RUST_ERROR = re.compile(r"os error (\d+)")


def explain_os_error(error: OSError) -> str | None:
    """The error in one line with a way out; ``None`` where it may be a bug."""
    fixes = MACHINE_LIMITS if error.filename is None else MACHINE_LIMITS | FILE_ERRORS
    if error.errno not in fixes:
        return None
    name = f"{_shortened(os.fsdecode(error.filename))}: " if error.filename else ""
    return f"{name}{str(error.strerror).lower()}; {fixes[error.errno]}"


@contextmanager
def explaining_os_errors() -> Iterator[None]:
    """Turn an ``OSError`` that is no bug into a ``UserError`` with the way out."""
    try:
        yield
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        raise UserError(explained) from error


def raise_os_error(error: Exception, path: Path) -> None:
    """Raise the ``OSError`` of ``path`` behind an error of a library in Rust, whose text has its number.

    Returns where there is none.
    """
    found = _RUST_ERROR.search(str(error))
    if found is not None and not isinstance(error, OSError):
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:80]}… ({len(name)} characters)"
