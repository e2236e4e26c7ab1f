"""Length limits for messages of models in a page."""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.report.blocks import Turn

LONGEST = 4_000
"""Characters of one message."""
TOGETHER = 3_000_000
"""Characters of all messages of a section."""


@dataclass(slots=True)
class TextBudget:
    """Truncates long messages, and all of them once the section is full; ``file`` has the whole texts."""

    file: str
    left: int = TOGETHER

    def turn(self, speaker: str, text: str, note: str = "") -> Turn:
        """The message as the page shows it; its note counts the characters that are left out."""
        shown = text[: min(LONGEST, max(0, self.left))]
        self.left -= len(shown)
        if len(shown) == len(text):
            return Turn(speaker, text, note)
        truncated = f"truncated: {len(text) - len(shown):,} more characters are in {self.file}"
        return Turn(speaker, shown, f"{note} · {truncated}" if note else truncated)

    @property
    def print_note(self) -> str:
        """Shown on paper, where nothing unfolds."""
        return f"Folded in print; see {self.file}, or unfold before printing."

    @property
    def limits(self) -> str:
        return f"Messages are shown up to {LONGEST:,} characters, all of a section up to {TOGETHER:,}."
