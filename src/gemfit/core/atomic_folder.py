"""Write a folder whole or not at all: a temporary folder in its parent, rename."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemfit.core.atomic_file import temporary_name
from gemfit.errors import UserError

_ELSEWHERE = "write elsewhere (--out, or GEMFIT_CACHE)"
_PARTIAL = "partial-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Yield a hidden folder, ``.NAME.partial-*``, that is renamed to ``out`` at the end; an error removes it.

    A full disk and a folder without write permission are a ``UserError``.
    """
    with partial_folder(out) as partial:
        yield partial
        partial.rename(out)


@contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder, ``.NAME.partial-*``, for what becomes ``out``; it is removed at the end.

    Errors as in ``staging``. What a killed process leaves of it, the next ``one_writer`` removes.
    """
    partial = temporary_name(out, _PARTIAL)
    try:
        with explaining(out):
            make_folder(out.parent)
            with explaining_no_place(out):
                partial.mkdir()
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def explaining_no_place(out: Path) -> Iterator[None]:
    """``UserError`` where nothing can be made next to ``out`` although its parent is there, as in /proc."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{out}: no folder can be made there; {_ELSEWHERE}") from error


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, if they are not there; ``UserError`` where none can be made."""
    with explaining(folder):
        try:
            with explaining_no_place(folder):
                folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # a file, or a link to nowhere
            raise UserError(f"{folder}: is not a folder; {_ELSEWHERE}") from error


def partial_folders(out: Path) -> list[Path]:
    """The hidden folders that ``partial_folder`` has made for ``out`` and that are still there."""
    start = f".{out.name}.{_PARTIAL}"
    return [path for path in out.parent.iterdir() if path.name.startswith(start)]


@contextmanager
def explaining(out: Path) -> Iterator[None]:
    """Turn a full disk and missing write permission into a ``UserError`` about writing ``out``."""
    try:
        yield
    except OSError as error:
        raise explained(error, out) from error


def explained(error: OSError, out: Path) -> Exception:
    """The ``UserError`` for a full disk or missing write permission; other errors with a place."""
    if error.errno in _FULL:
        return UserError(
            f"{out.parent}: the disk is full ({_free_mib(out.parent)} MiB free); no partial output "
            "was left: free some space, or write elsewhere (--out, or GEMFIT_CACHE)"
        )
    if error.errno in _FORBIDDEN:
        return UserError(f"{error.filename or out}: {error.strerror}; {_ELSEWHERE}")
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return UserError(f"{out}: already exists; choose another name")
    if error.filename is None:  # of an open file
        error.filename = str(out)
    return error


def _free_mib(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 2**20
