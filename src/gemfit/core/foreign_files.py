"""Links out of a folder, and pipes and devices in it: following one would read or write somewhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gemfit.core.file_lock import stale_is_missing
from gemfit.errors import UserError

SHOWN = 5
MAX_DEPTH = 100
"""Levels of folders, the first included; more of them would exhaust a recursive walk."""


def refuse_foreign_files(folder: Path, *, levels: int | None = None) -> None:
    """``UserError`` that names what leads out of ``folder``; links inside of it are allowed.

    Looks at ``levels`` levels of folders, at all by default. A missing folder is no error.
    """
    found = list(dict.fromkeys(_foreign(folder, folder.resolve(), levels)))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"{folder}: {'; '.join(found[:SHOWN])}{more}; nothing was read or written: remove it, or put the "
            "files themselves there; the folder as a whole may be on another disk and linked to"
        )


def _foreign(folder: Path, root: Path, levels: int | None, depth: int = 1) -> Iterator[str]:
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
            if depth < (levels or MAX_DEPTH):
                yield from _foreign(path, root, levels, depth + 1)
            elif levels is None:
                yield f"{root.name} holds folders that are nested more than {MAX_DEPTH} levels deep"
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
