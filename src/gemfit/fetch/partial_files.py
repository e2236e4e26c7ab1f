"""Partial files of downloads in the Hub cache: removed at an interrupt, and those that a killed process left.

huggingface_hub downloads into ``blobs/DIGEST.RANDOM.incomplete``, in threads that end when their file has
arrived. It does not continue with the file of another process, and never removes one.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from gemfit.core.file_lock import try_lock
from gemfit.core.module_main import INTERRUPTED
from gemfit.core.stop_signals import handling

logger = logging.getLogger(__name__)

SUFFIX = ".incomplete"
UNTOUCHED_SECONDS = 120.0
"""After which a partial file is abandoned, if nobody has its lock: a transfer without data ends sooner.

Locks alone are no proof: on some file systems everybody gets them.
"""


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM remove partial files and end the process without waiting for threads."""
    with handling((signal.SIGINT, signal.SIGTERM), _end):
        yield


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for path in _open_here():
        with suppress(OSError):
            path.unlink()
    os.write(2, b"interrupted\n")  # `sys.stderr` may be in use, below this handler
    os._exit(INTERRUPTED)


def _open_here() -> list[Path]:
    """Partial files that this process has open."""
    found = []
    with suppress(OSError):
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found.append(link.readlink())
    return [path for path in found if path.name.endswith(SUFFIX)]


def remove_abandoned(cache: Path, folder: str) -> None:
    """Remove the partial files that killed processes have left of a repository, ``folder`` of ``cache``."""
    for path in (cache / folder / "blobs").glob(f"*{SUFFIX}"):
        lock = cache / ".locks" / folder / f"{path.name.partition('.')[0]}.lock"
        with suppress(OSError):  # gone meanwhile, or not ours to remove
            if time.time() - path.stat().st_mtime > UNTOUCHED_SECONDS and _is_free(lock):
                path.unlink()
                logger.info("%s: removed, left by a download that was killed", path.name)


def _is_free(lock: Path) -> bool:
    """Whether no download holds the lock of a file."""
    if not lock.exists():
        return True
    with lock.open("a") as stream:
        return try_lock(stream.fileno())
