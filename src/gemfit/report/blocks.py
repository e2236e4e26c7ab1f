"""Blocks of a page as plain values; text is escaped where the page is rendered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemfit.summary.text_table import TextTable

Tone = Literal["plain", "good", "warn", "fail"]
LAST = 2
"""Messages before the replies that are always shown."""


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that does not exist yet, and the command that creates it."""

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture that ``draw`` puts on axes; ``alt`` is its text alternative, with the numbers."""

    name: str
    """Of the PNG, and unique in a page."""
    alt: str
    draw: Callable[[Any], None]
    caption: str = ""
    height: float = 3.0
    """In inches; the width is always the same."""


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts in a grid."""

    items: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Preformatted text."""

    text: str


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation: a prompt, a reference or a reply."""

    speaker: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ChatBlock:
    """The messages of a prompt, then replies side by side."""

    messages: tuple[ChatTurn, ...]
    replies: tuple[ChatTurn, ...]

    @property
    def earlier(self) -> tuple[ChatTurn, ...]:
        """Folded messages of a long conversation: all but the last ones."""
        return self.messages[:-LAST] if len(self.messages) > LAST + 1 else ()

    @property
    def last(self) -> tuple[ChatTurn, ...]:
        return self.messages[len(self.earlier) :]


@dataclass(frozen=True, slots=True)
class Fold:
    """Folded blocks; ``printed`` is shown on paper in their place."""

    title: str
    blocks: Sequence[Block]
    printed: str = ""
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """Heading inside a section."""

    text: str


Block = Note | Missing | TextTable | Charts | Code | ChatBlock | Fold | Heading


@dataclass(frozen=True, slots=True)
class Section:
    """An entry of the table of contents."""

    name: str
    """Its anchor."""
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    state: str
    tone: Tone
    summary: str
    tiles: tuple[tuple[str, str], ...]
    """Key figures: name and value."""
    sections: tuple[Section, ...]
    made: str
    """Date and version."""
