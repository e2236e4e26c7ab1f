"""One row as a person wants to see it: documents in colours, turns one below the other.

In colours, trained tokens are bold and underlined and repeated ones dim. Where there is no colour,
`⟦ ⟧` stand around what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemfit.data.inspect.annotate import AnnotatedChunk, AnnotatedRow
from gemfit.data.inspect.chunks import REPEATED
from gemfit.data.inspect.printable import decode, make_visible
from gemfit.data.inspect.roles import BEGIN

COLORS = ("cyan", "green", "magenta", "yellow", "blue", "red")
HEAD, TAIL = 120, 40
"""Tokens shown of the beginning and of the end of a long turn."""
TURNS = 24
"""Turns shown of a long document, half of them from its end."""
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Look:
    """How rows are shown."""

    tokenizer: Any
    plain: bool
    """Without colour: trained tokens between brackets."""
    whole: bool
    """Every turn, with every token."""


def show_row(row: AnnotatedRow, look: Look, console: Console) -> None:
    """Print the row, document by document."""
    console.print(Text(row.title, style="bold"), soft_wrap=True)
    for index, chunk in enumerate(row.chunks):
        color = COLORS[index % len(COLORS)]
        console.print()
        console.print(Text(chunk.title, style=f"bold {color}"), soft_wrap=True)
        console.print(_turns(chunk, look, color))
    if row.padding:
        console.print(Text(f"\npadding: {row.padding:,} places without a label", style="dim"))


def legend(look: Look) -> str:
    """What the signs mean."""
    trained = "⟦ ⟧ trained" if look.plain else "bold and underlined: trained"
    parts = [trained, "↻ repeated context, masked", "⏎ line break", "· space", "→ tab"]
    return ", ".join(parts if look.whole else [*parts, "… left out: see --all"])


def _turns(chunk: AnnotatedChunk, look: Look, color: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, justify="right", min_width=12)
    grid.add_column(overflow="fold")
    for role, text in _lines(chunk, look, color):
        grid.add_row(Text(role, style="dim" if role.startswith("↻") else color), text)
    return grid


def _lines(chunk: AnnotatedChunk, look: Look, color: str) -> Iterator[tuple[str, Text]]:
    """Role and text of each turn; one that is repeated in part makes two."""
    parts = list(_parts(chunk))
    num_left_out = 0 if look.whole else max(0, len(parts) - TURNS)
    for index, (role, places) in enumerate(parts):
        if num_left_out and index == TURNS // 2:
            yield "", Text(f"… {num_left_out:,} turns …", style="dim italic")
        if TURNS // 2 <= index < TURNS // 2 + num_left_out:
            continue
        repeated = chunk.positions[places[0]] == REPEATED
        yield f"↻ {role}" if repeated else role, _text(chunk, places, look, "dim" if repeated else color)


def _parts(chunk: AnnotatedChunk) -> Iterator[tuple[str, Places]]:
    """Role and places; what begins the chunk goes with its first turn where both are repeated or neither."""
    repeated, spans = chunk.positions == REPEATED, list(chunk.spans)
    if len(spans) > 1 and spans[0].role == BEGIN and repeated[0] == repeated[spans[1].start]:
        spans[:2] = [spans[1]._replace(start=0)]
    for span in spans:
        for part in _runs(np.arange(span.start, span.stop), repeated):
            yield span.role, part


def _runs(places: Places, flags: NDArray[np.bool_]) -> list[Places]:
    """Neighbours of an equal flag together."""
    breaks = (np.diff(places) != 1) | (flags[places[1:]] != flags[places[:-1]])
    return np.split(places, np.flatnonzero(breaks) + 1)


def _text(chunk: AnnotatedChunk, places: Places, look: Look, style: str) -> Text:
    num_left_out = 0 if look.whole else max(0, len(places) - HEAD - TAIL)
    if num_left_out <= TAIL:
        return _marked(chunk, places, look, style)
    return Text.assemble(
        _marked(chunk, places[:HEAD], look, style),
        (f" … {num_left_out:,} tokens … ", "dim italic"),
        _marked(chunk, places[-TAIL:], look, style),
    )


def _marked(chunk: AnnotatedChunk, places: Places, look: Look, style: str) -> Text:
    """The text of these tokens, the trained ones marked."""
    trained = chunk.chunk.trained
    runs = _runs(places, trained)
    texts = make_visible([decode(look.tokenizer, chunk.chunk.ids[run].tolist()) for run in runs])
    shown = Text(style=style)
    for run, text in zip(runs, texts, strict=True):
        if look.plain:
            shown.append(f"⟦{text}⟧" if trained[run[0]] else text)
        else:
            shown.append(text, "bold underline" if trained[run[0]] else "")
    return shown
