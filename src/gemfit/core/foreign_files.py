"""Links out of a folder, and pipes and devices in it: following one would read or write somewhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from gemfit.core.file_lock import stale_is_missing
from gemfit.errors import UserError

SHOWN = 5
MAX_DEPTH = 100
"""Levels of folders; more are a trap for whoever walks through them."""


def refuse_foreign_files(folder: Path, *, levels: int | None = None) -> None:
    """``UserError`` that names what leads out of ``folder``; links inside of it are allowed.

    Looks at ``levels`` levels of folders, at all by default. A missing folder is no error.
    """
    found = list(_foreign(folder, folder.resolve(), MAX_DEPTH if levels is None else levels))
    if levels is None:
        found += list(islice(_too_deep(folder), 1))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"{folder}: {'; '.join(found[:SHOWN])}{more}; nothing was read or written: remove it, or put the "
            "files themselves there; the folder as a whole may be on another disk and linked to"
        )


def _too_deep(folder: Path) -> Iterator[str]:
    below = len(folder.parts) + MAX_DEPTH
    for place, folders, _ in os.walk(folder):
        if folders and len(Path(place).parts) >= below:
            yield f"{folder.name} holds folders that are nested more than {MAX_DEPTH} levels deep"
            folders.clear()


def _foreign(folder: Path, root: Path, levels: int) -> Iterator[str]:
    try:
        with stale_is_missing():
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # another process has removed it
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            if target := _outside(path, root):
                yield f"{path.relative_to(folder.parent)} is a link to {target}, out of the folder"
        elif entry.is_dir():
            if levels > 1:
                yield from _foreign(path, root, levels - 1)
        elif not entry.is_file() and path.exists():
            yield f"{path.name} is a pipe, socket or device"


def _outside(link: Path, root: Path) -> Path | None:
    """Where a link out of ``root`` leads; ``None`` for one inside of it, and for one that is gone by now."""
    try:
        if link.resolve().is_relative_to(root):
            return None
    except (OSError, RuntimeError):  # a circle of links
        pass
    try:
        with stale_is_missing():
            return link.readlink()
    except FileNotFoundError:  # another process has removed it
        return None
