"""Input files of a pack: size, modification time and content digest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from gemfit.errors import UserError
from gemfit.schemas.base import Contract


class SourceFile(Contract):
    """One input file, as it was when the pack was planned."""

    path: str
    bytes: int
    xxh3: str
    """XXH3-128 of the content, in hexadecimal."""
    modified_ns: int = 0
    """Modification time: while it and the size stay, the content is taken to be the same."""
    source: int = 0
    """Index into the sources of the job."""


def digest_files(paths: Sequence[Path]) -> list[SourceFile]:
    """Digest files on several threads: reading and hashing release the GIL."""
    unique = list(dict.fromkeys(paths))  # two sources may name one file
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(unique, pool.map(digest_file, unique), strict=True))
    return [found[path] for path in paths]


def digest_file(path: Path) -> SourceFile:
    """Size, modification time and digest of a file; unreadable and empty files are a ``UserError``.

    A process reads a file again only after its size, modification time or inode has changed.
    """
    try:
        status = path.stat()
        xxh3 = _xxh3(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if status.st_size == 0:
        raise UserError(f"{path}: is empty; write one conversation per line")
    return SourceFile(path=str(path), bytes=status.st_size, xxh3=xxh3, modified_ns=status.st_mtime_ns)


@cache
def _xxh3(path: Path, size: int, modified_ns: int, inode: int) -> str:
    """Digest of a file's content; the other arguments say which version of the file it is of."""
    from gemfit.core.file_digest import file_xxh3  # noqa: PLC0415  (most commands digest nothing)

    return file_xxh3(path)
