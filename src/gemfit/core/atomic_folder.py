"""A folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemfit.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` which takes its name at the end, and is gone after any error.

    A full disk, and a place where nothing may be written, are a ``UserError``.
    """
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        partial.rename(out)
    except OSError as error:
        raise explained(error, out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def explained(error: OSError, out: Path) -> Exception:
    """The ``UserError`` for a full disk and for a place where nothing may be written; others as they are."""
    if error.errno in _FULL:
        return UserError(
            f"{out.parent}: the disk is full ({_free_mib(out.parent)} MiB free); nothing half-written "
            "was left: free some space, or write elsewhere (--out, or GEMFIT_CACHE)"
        )
    if error.errno in _FORBIDDEN:
        return UserError(
            f"{error.filename or out}: {error.strerror}; write elsewhere (--out, or GEMFIT_CACHE)"
        )
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return UserError(f"{out}: is already there; remove it, or write elsewhere")
    return error


def _free_mib(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 2**20
