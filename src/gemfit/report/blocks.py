"""What a page is made of. Plain values: text is escaped where the page is written, not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Tone = Literal["plain", "good", "warn", "fail"]
Cells = tuple[str, ...]
LAST = 2
"""Messages before a reply that are always shown."""


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph."""

    kind: ClassVar[str] = "note"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that is not there yet, and the command that makes it."""

    kind: ClassVar[str] = "missing"
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head; the first column names its row."""

    kind: ClassVar[str] = "table"
    title: str
    heads: Cells
    rows: tuple[Cells, ...]
    note: str = ""

    @property
    def numbers(self) -> tuple[bool, ...]:
        """For each column, whether it holds nothing but figures."""
        return tuple(
            index > 0
            and any(map(_is_figure, column))
            and all(c in ("", "–") or _is_figure(c) for c in column)
            for index, column in enumerate(zip(*self.rows, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Tiles:
    """Key figures, each with its name."""

    kind: ClassVar[str] = "tiles"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture that ``draw`` puts on axes; ``says`` is its content in words, with the numbers."""

    kind: ClassVar[str] = "chart"
    name: str
    """Of the PNG, and unique in a page."""
    says: str
    draw: Callable[[Any], None]
    caption: str = ""
    height: float = 3.0
    """In inches; the width is always the same."""


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts beside each other, where there is room."""

    kind: ClassVar[str] = "charts"
    items: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be read or run as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says, with who it is: a prompt, a reference, a reply."""

    who: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Talk:
    """Messages one below the other, then replies side by side."""

    kind: ClassVar[str] = "talk"
    messages: tuple[Said, ...]
    replies: tuple[Said, ...]

    @property
    def earlier(self) -> tuple[Said, ...]:
        """Messages of a long conversation that a reader opens: all but the last ones."""
        return self.messages[:-LAST] if len(self.messages) > LAST + 1 else ()

    @property
    def last(self) -> tuple[Said, ...]:
        return self.messages[len(self.earlier) :]


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that a reader opens; ``printed`` says on paper where to find them."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Block]
    printed: str = ""
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a part of a section."""

    kind: ClassVar[str] = "heading"
    text: str


Block = Note | Missing | Table | Tiles | Chart | Charts | Code | Talk | Fold | Heading


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that its list of contents names."""

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
    tiles: Tiles
    sections: tuple[Section, ...]
    made: str
    """When, by what."""


def _is_figure(text: str) -> bool:
    return text[:1] in "+-−0123456789" and text[:1] != "" and text[-1:] not in "-−"
