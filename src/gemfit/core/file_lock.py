"""Advisory file locks (flock), taken at once or with patience."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from gemfit.errors import UserError

RETRY_SECONDS = 0.05
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""From flock on file systems that do not support it, such as Lustre without its mount option."""

LockState = Literal["free", "held", "unknown"]


@contextmanager
def stale_is_missing() -> Iterator[None]:
    """Turn ESTALE into ``FileNotFoundError``: NFS says so of an open file that another node has removed."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        raise FileNotFoundError(errno.ENOENT, "was removed on another node") from error


def try_lock(descriptor: int, *, patience_seconds: float = 0.0) -> bool:
    """Take the exclusive lock of an open file; ``False`` if another process still has it after the wait.

    Raises ``FileNotFoundError`` where another node has removed the file meanwhile.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with stale_is_missing():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(RETRY_SECONDS)


def lock_shared(descriptor: int) -> None:
    """Take a shared lock of an open file: readers wait for a writer, not for each other.

    Where the file system has no locks, nothing is locked: a reader needs no permission of a writer. Raises
    ``FileNotFoundError`` where another node has removed the file meanwhile.
    """
    try:
        with stale_is_missing():
            fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def lock_state(path: Path) -> LockState:
    """Whether a process holds the exclusive lock of ``path``; needs no permission to write.

    ``unknown`` where the file cannot be read, the file system has no locks, or it is mounted read-only: a
    snapshot shows no lock of the processes that write the original.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return "free"
    except OSError:
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError:
        return "unknown"
    else:
        return "unknown" if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY else "free"
    finally:
        os.close(descriptor)


@contextmanager
def explaining_locks(path: Path) -> Iterator[None]:
    """Turn a lock file that cannot be locked or written into a ``UserError``, and missing permissions too."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def _explained(error: OSError, path: Path) -> Exception:
    folder = path.parent
    if error.errno in NO_LOCKS:
        return UserError(
            f"{folder}: is on a file system without file locks ({error.strerror}); "
            "Lustre needs the mount option `flock`; use a folder on another file system"
        )
    if error.errno == errno.EROFS:
        return UserError(f"{folder}: is on a read-only file system, such as a snapshot; it can only be read")
    if error.errno in (errno.EACCES, errno.EPERM):
        return UserError(f"{folder}: you may read it but not write it; it belongs to {_owner(folder)}")
    return error


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):  # users of a container may have no name
        return "another user"
