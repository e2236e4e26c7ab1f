"""Write a file whole or not at all: a temporary file in its folder, flush to disk, rename."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` (text as UTF-8), whole or not at all, and flushed to disk."""
    with replacing(path) as temporary, temporary.open("xb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` at the end; an error removes it instead.

    An ``OSError`` of an open file, as on a full disk, or of the temporary path, as of a folder in place of
    ``path``, gets the name of ``path``.
    """
    temporary = temporary_name(path, "")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path, label: str) -> Path:
    """A hidden name in the folder of ``path``, ``.NAME.LABEL`` and a UUID, that no other process uses."""
    # Not the process id: nodes and containers on one file system have equal ones.
    return path.with_name(f".{path.name}.{label}{uuid.uuid4().hex}")
