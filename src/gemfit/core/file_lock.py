"""Advisory file locks (flock), taken at once or with patience."""

from __future__ import annotations

import fcntl
import time

RETRY_SECONDS = 0.05


def try_lock(descriptor: int, *, patience_seconds: float = 0.0) -> bool:
    """Take the exclusive lock of an open file; ``False`` if another process still has it after the wait."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(RETRY_SECONDS)


def lock_shared(descriptor: int) -> None:
    """Take a shared lock of an open file: readers wait for a writer, not for each other."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
