"""Count the system messages of the training data.

Reads at most ``MOST_CONVERSATIONS`` lines, the first of every file, in any form that training reads; lines
without a name of the system role are not parsed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gemfit.data.jsonl.inputs import lines_of
from gemfit.data.jsonl.line_parser import read_line
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.errors import UserError
from gemfit.schemas.find_inputs import find_files
from gemfit.schemas.recipe_data import DataRecipe

MOST_CONVERSATIONS = 100_000
"""Most lines that are read, the same number per file."""
_DOMINANT = 0.5
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
        return self.most_common if is_dominant(self.count, self.conversations) else None


def is_dominant(count: int, conversations: int) -> bool:
    """Whether a text that ``count`` conversations begin with is their system prompt; one of two is not."""
    return count >= _DOMINANT * conversations and (count > 1 or conversations == 1)


def system_prompts(data: DataRecipe) -> SystemPrompts:
    """Count the system messages of the data; ``UserError`` for a source that is missing or on the Hub."""
    counts, total, is_sample = Counter[str](), 0, False
    settings = LineSettings.of(data)
    names = _system_names(settings)
    files = [path for source in data.mixture for path in _files(source.source)]
    share = max(1, MOST_CONVERSATIONS // max(1, len(files)))
    for path in files:
        lines = lines_of(path)
        for line in islice(lines, share):
            if not line.strip():
                continue
            total += 1
            if any(name in line for name in names) and (text := _system(line, settings)) is not None:
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


def _system_names(settings: LineSettings) -> tuple[bytes, ...]:
    """Words of which a line with a system message holds one, as a role or a key, or within either."""
    named = (settings.roles, settings.columns)
    return tuple({name.encode() for names in named for name, what in names.items() if what == "system"})


def _system(line: bytes, settings: LineSettings) -> str | None:
    """The system message of a line; an invalid line has none."""
    try:
        messages = read_line(line, "", settings).messages
    except UserError:
        return None
    return messages[0].content if messages and messages[0].role == "system" else None
