"""Tail the metrics file of a running attempt: whole lines only, from the last offset on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemfit.core.jsonl_log import count_lines, parse_lines
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
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            whole, newline, _ = stream.read().rpartition(b"\n")
        start = self.offset
        self.offset += len(whole) + len(newline)
        lines = whole.split(b"\n")
        return parse_lines(
            self.path, lines, parse_record, first_line=lambda: count_lines(self.path, start) + 1
        )


def recent_records(path: Path) -> list[Record]:
    """The last records of a run, however long it is: those in the last quarter of a megabyte."""
    if not path.is_file():
        return []
    start = max(0, path.stat().st_size - TAIL_BYTES)
    tail = Tail(path, start)
    if start:
        with path.open("rb") as stream:
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
