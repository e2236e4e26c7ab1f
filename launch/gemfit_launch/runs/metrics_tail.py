"""Tail the metrics file of a running attempt: whole lines only, from the last offset on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gemfit.core.jsonl_log import LONGEST_LINE, count_lines, parse_lines, read_lines
from gemfit.core.regular_file import open_regular
from gemfit.schemas.metrics import Record, StepRecord, parse_record

TAIL_BYTES = 256 * 1024


@dataclass(slots=True)
class Tail:
    """Reader of a growing file of records."""

    path: Path
    offset: int = 0

    @classmethod
    def from_end(cls, path: Path) -> Tail:
        """Only what is written from now on."""
        return cls(path, path.stat().st_size if path.is_file() else 0)

    def read(self) -> list[Record]:
        """The records that are complete since the last call; a half-written line waits for its end.

        Lines that hold no record, such as the half line of a crashed attempt, are skipped with a warning.
        """
        if not self.path.is_file():
            return []
        start = self.offset
        with open_regular(self.path) as stream:
            stream.seek(start)
            return parse_lines(
                self.path,
                self._whole_lines(stream),
                parse_record,
                first_line=lambda: count_lines(self.path, start) + 1,
            )

    def _whole_lines(self, stream: BinaryIO) -> Iterator[bytes]:
        for line in read_lines(stream):
            if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                return
            self.offset += len(line)
            yield line


def recent_records(path: Path) -> list[Record]:
    """The last records of a run, however long it is: those in the last quarter of a megabyte."""
    if not path.is_file():
        return []
    start = max(0, path.stat().st_size - TAIL_BYTES)
    tail = Tail(path, start)
    if start:
        with open_regular(path) as stream:
            stream.seek(start)
            tail.offset += len(stream.readline())  # the line that the window cuts
    return tail.read()


def seconds_left(steps: list[StepRecord], total: int) -> float | None:
    """Time to the last step at the pace of the recent ones; ``None`` before there is a pace."""
    same = [step for step in steps if step.attempt == steps[-1].attempt]
    if len(same) < 2 or same[-1].step == same[0].step:
        return None
    pace = (same[-1].time - same[0].time) / (same[-1].step - same[0].step)
    return max(0.0, pace * (total - same[-1].step))
