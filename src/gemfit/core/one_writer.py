"""One writer of a file or folder at a time: later ones wait, and find what the first has written.

A lock file in its parent folder (flock) holds over processes, containers and, where the file system
passes locks on, over nodes. Where it does not, two writers do the same work, and the first to rename wins.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gemfit.core.atomic_folder import explaining, explaining_no_place, make_folder, partial_folders
from gemfit.core.file_lock import NO_LOCKS, stale_is_missing, try_lock


@contextmanager
def one_writer(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that writes ``out``; waits for another one, and removes what a killed one left."""
    make_folder(out.parent)
    with explaining(out):
        lock = out.with_name(f".{out.name}.lock")
        descriptor, is_held = _acquire(lock, out, say)
    try:
        if is_held:
            # The processes that made these are dead, or they would hold the lock.
            for leftover in partial_folders(out):
                shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        if is_held:
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(lock: Path, out: Path, say: Callable[[str], None]) -> tuple[int, bool]:
    """An open lock file and whether its lock is held; False where the file system has no locks."""
    while True:
        with explaining_no_place(out):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not try_lock(descriptor):
                say(f"another process is writing {out}; waiting for it")
                try_lock(descriptor, patience_seconds=math.inf)
            # Where the process that was waited for has removed the file, lock the one that is there now.
            if _is_still(lock, descriptor):
                return descriptor, True
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor, False
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        with stale_is_missing():
            return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
