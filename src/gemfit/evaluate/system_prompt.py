"""Which system message the conversations of a training begin with: counted, not assumed.

Reads the first ``MOST_CONVERSATIONS`` lines of each file; lines without the word are not parsed.
"""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson
import zstandard

from gemfit.errors import UserError
from gemfit.packing import find_files
from gemfit.recipe import DataRecipe

MOST_CONVERSATIONS = 100_000
"""Looked at, of each file."""
ROLES = ("system", "developer")
DOMINANT = 0.5
"""A message that this share of the conversations begins with is that of the training."""


@dataclass(frozen=True, slots=True)
class SystemPrompts:
    """What conversations begin with."""

    conversations: int
    """Looked at."""
    with_system: int
    """Those that begin with a system message."""
    distinct: int
    most_common: str | None
    count: int
    """Of conversations that begin with ``most_common``."""

    @property
    def dominant(self) -> str | None:
        """The message that at least half of the conversations begin with, if there is one."""
        return self.most_common if self.count >= DOMINANT * self.conversations else None


def system_prompts(data: DataRecipe) -> SystemPrompts:
    """Count the system messages of the data; a source that is gone, or on a hub, is a ``UserError``."""
    counts, total = Counter[str](), 0
    for source in data.mixture:
        if source.source.startswith("hf:"):
            raise UserError(f"{source.source}: is not read again, so its system messages are not known")
        for path in find_files(source.source):
            for line in islice(_lines(path), MOST_CONVERSATIONS):
                if not line.strip():
                    continue
                total += 1
                if (text := _system(line)) is not None:
                    counts[text] += 1
    text = max(counts, key=counts.__getitem__, default=None)  # of equals the one that came first
    return SystemPrompts(total, counts.total(), len(counts), text, counts[text] if text is not None else 0)


def _lines(path: Path) -> Iterator[bytes]:
    if path.suffix == ".zst":
        with zstandard.open(path, "rb") as raw, io.BufferedReader(raw) as stream:
            yield from stream
    else:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield from stream


def _system(line: bytes) -> str | None:
    """The system message of a line; what is no conversation has none."""
    if not any(b'"' + role.encode() + b'"' in line for role in ROLES):
        return None
    try:
        first = orjson.loads(line)["messages"][0]
        return str(first["content"]) if first["role"] in ROLES else None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
