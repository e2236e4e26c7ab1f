"""Links out of a folder, and pipes and devices in it: following one would read or write somewhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gemfit.errors import UserError

SHOWN = 5


def refuse_foreign_files(folder: Path, *, levels: int | None = None) -> None:
    """``UserError`` that names what leads out of ``folder``; links inside of it are allowed.

    Looks at ``levels`` levels of folders, at all by default. A missing folder is no error.
    """
    found = list(_foreign(folder, folder.resolve(), levels))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"{folder}: {'; '.join(found[:SHOWN])}{more}; nothing was read or written: remove it, or put the "
            "files themselves there; the folder as a whole may be on another disk and linked to"
        )


def _foreign(folder: Path, root: Path, levels: int | None) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # another process has removed it
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            if not _stays_inside(path, root):
                yield f"{path.relative_to(folder.parent)} is a link to {path.readlink()}, out of the folder"
        elif entry.is_dir():
            if levels is None or levels > 1:
                yield from _foreign(path, root, None if levels is None else levels - 1)
        elif not entry.is_file() and path.exists():
            yield f"{path.name} is a pipe, socket or device"


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a circle of links
        return False
