"""How much of what models say goes into a page."""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.report.blocks import Said

LONGEST = 4_000
"""Characters of one message."""
TOGETHER = 3_000_000
"""Characters of all messages of a section."""


@dataclass(slots=True)
class Budget:
    """Cuts messages that are too long, and all of them once a page holds enough; ``file`` has them whole."""

    file: str
    left: int = TOGETHER

    def said(self, who: str, text: str, note: str = "") -> Said:
        """The message as the page shows it, and what is missing of it."""
        shown = text[: min(LONGEST, max(0, self.left))]
        self.left -= len(shown)
        if len(shown) == len(text):
            return Said(who, text, note)
        cut = f"cut: {len(text) - len(shown):,} more characters are in {self.file}"
        return Said(who, shown, f"{note} · {cut}" if note else cut)

    @property
    def told(self) -> str:
        """For paper, where nothing unfolds."""
        return f"Folded on paper; whole in {self.file}, or unfold before printing."

    @property
    def limits(self) -> str:
        return f"Messages are shown up to {LONGEST:,} characters, all of a section up to {TOGETHER:,}."
