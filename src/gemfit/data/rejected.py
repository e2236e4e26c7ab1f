"""The list of lines that were no conversations, written only when there is one."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Self

import orjson

from gemfit.data.read import Rejection


class RejectedFile:
    """JSON lines with ``place``, ``line`` (a number) and ``reason``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, rejection: Rejection) -> None:
        """Append one line; the first creates the file."""
        if self._stream is None:
            self._stream = self._path.open("wb")
        line = int(rejection.place.rsplit(":", 1)[1])
        entry = {"place": rejection.place, "line": line, "reason": rejection.reason}
        self._stream.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
