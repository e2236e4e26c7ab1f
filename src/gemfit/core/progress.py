"""Progress display: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress display of one operation."""

    def __init__(self, what: str, total: int | None, unit: str, stream: TextIO) -> None:
        self._what, self._total, self._unit, self._stream = what, total, unit, stream
        self._bar = (
            tqdm(desc=what, total=total, unit=unit, unit_scale=True, file=stream) if stream.isatty() else None
        )
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def at(self, done: int) -> None:
        """Show that ``done`` of ``total`` units are finished."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            share = f" ({done / self._total:.0%})" if self._total else ""
            self._stream.write(f"{self._what}: {done:,} {self._unit}{share}\n")
            self._stream.flush()

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress(what: str, total: int | None, unit: str, stream: TextIO | None = None) -> Iterator[Progress]:
    """A ``Progress`` on ``stream`` (stderr by default), closed at the end."""
    shown = Progress(what, total, unit, stream or sys.stderr)
    try:
        yield shown
    finally:
        shown.close()
