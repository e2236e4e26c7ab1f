"""Count the system messages of the training data.

Reads at most ``MOST_CONVERSATIONS`` lines, the first of every file; lines without a system role are not
parsed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from gemfit.data.jsonl.inputs import lines_of
from gemfit.errors import UserError
from gemfit.schemas.find_inputs import find_files
from gemfit.schemas.recipe_data import DataRecipe

MOST_CONVERSATIONS = 100_000
"""Most lines that are read, the same number per file."""
ROLES = ("system", "developer")
DOMINANT = 0.5
"""Least share of the conversations that begin with the dominant message."""


@dataclass(frozen=True, slots=True)
class SystemPrompts:
    """Counts of system messages."""

    conversations: int
    """Conversations that were read."""
    is_sample: bool
    """Whether there are more."""
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
    """Count the system messages of the data; ``UserError`` for a source that is missing or on the Hub."""
    counts, total, is_sample = Counter[str](), 0, False
    files = [path for source in data.mixture for path in _files(source.source)]
    share = max(1, MOST_CONVERSATIONS // max(1, len(files)))
    for path in files:
        lines = lines_of(path)
        for line in islice(lines, share):
            if not line.strip():
                continue
            total += 1
            if (text := _system(line)) is not None:
                counts[text] += 1
        is_sample |= next(lines, None) is not None
    text = max(counts, key=counts.__getitem__, default=None)  # of equals the one that came first
    return SystemPrompts(
        total, is_sample, counts.total(), len(counts), text, counts[text] if text is not None else 0
    )


def _files(source: str) -> list[Path]:
    if source.startswith("hf:"):
        raise UserError(f"{source}: a Hub source is not read again, so its system messages are unknown")
    return find_files(source)


def _system(line: bytes) -> str | None:
    """The system message of a line; an invalid line has none."""
    if not any(b'"' + role.encode() + b'"' in line for role in ROLES):
        return None
    try:
        first = orjson.loads(line)["messages"][0]
        return str(first["content"]) if first["role"] in ROLES else None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
