"""Counts of the lines of a block."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from gemfit.data.tokenize.verification import VerificationSample


@dataclass(slots=True)
class BlockCounts:
    """Lines of a block by what they are."""

    lines: int = 0
    blank: int = 0
    rejected: int = 0
    untrained: int = 0
    """With a `weight` of 0, or `train: false`."""
    empty_messages: int = 0
    """Messages of valid lines that have no text."""
    forms: Counter[str] = field(default_factory=Counter)
    """Valid lines by form, without `messages`."""
    pii: dict[str, int] = field(default_factory=dict)
    """PII by kind."""
    sample: VerificationSample | None = None
    """Sampled texts and their ids for the reference check of the engine; None before encoding."""

    def __iadd__(self, other: Self) -> Self:
        self.lines += other.lines
        self.blank += other.blank
        self.rejected += other.rejected
        self.untrained += other.untrained
        self.forms += other.forms
        return self
