"""Append-only logs of one JSON record per line."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class JsonRecord(Protocol):
    """Anything with a JSON form of one line, such as a pydantic model."""

    def model_dump_json(self) -> str:
        """The record as JSON."""


def append_record(path: Path, record: JsonRecord) -> None:
    """Add a line to ``path``; several threads may do so at once."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(record.model_dump_json() + "\n")
