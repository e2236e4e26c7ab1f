"""Print a packed row as text: documents in colours, one turn per line.

With colours, trained tokens are bold and underlined and repeated tokens dim; without, trained tokens are in
`⟦ ⟧`.
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
from gemfit.data.inspect.printable import decode, to_printable
from gemfit.data.inspect.roles import BEGIN

COLORS = ("cyan", "green", "magenta", "yellow", "blue", "red")
HEAD, TAIL = 120, 40
"""Tokens printed of the beginning and the end of a long turn."""
TURNS = 24
"""Turns printed of a long document, half of them from its end."""
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How rows are printed."""

    tokenizer: Any
    plain: bool
    """Without colours: trained tokens in brackets."""
    whole: bool
    """Every turn, with every token."""


def print_row(row: AnnotatedRow, options: ViewOptions, console: Console) -> None:
    """Print the row, document by document."""
    console.print(Text(row.title, style="bold"), soft_wrap=True)
    for index, chunk in enumerate(row.chunks):
        color = COLORS[index % len(COLORS)]
        console.print()
        console.print(Text(chunk.title, style=f"bold {color}"), soft_wrap=True)
        console.print(_turns(chunk, options, color))
    if row.padding:
        console.print(Text(f"\npadding: {row.padding:,} places without a label", style="dim"))


def legend(options: ViewOptions) -> str:
    """Meaning of the symbols and styles."""
    trained = "⟦ ⟧ trained" if options.plain else "bold and underlined: trained"
    parts = [trained, "↻ repeated context, masked", "⏎ line break", "· space", "→ tab"]
    return ", ".join(parts if options.whole else [*parts, "… left out: see --all"])


def _turns(chunk: AnnotatedChunk, options: ViewOptions, color: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, justify="right", min_width=12)
    grid.add_column(overflow="fold")
    for role, text in _lines(chunk, options, color):
        grid.add_row(Text(role, style="dim" if role.startswith("↻") else color), text)
    return grid


def _lines(chunk: AnnotatedChunk, options: ViewOptions, color: str) -> Iterator[tuple[str, Text]]:
    """Role and text of each turn; two entries for one that is repeated in part."""
    parts = list(_parts(chunk))
    num_omitted = 0 if options.whole else max(0, len(parts) - TURNS)
    for index, (role, positions) in enumerate(parts):
        if num_omitted and index == TURNS // 2:
            yield "", Text(f"… {num_omitted:,} turns …", style="dim italic")
        if TURNS // 2 <= index < TURNS // 2 + num_omitted:
            continue
        repeated = chunk.positions[positions[0]] == REPEATED
        yield (
            f"↻ {role}" if repeated else role,
            _text(chunk, positions, options, "dim" if repeated else color),
        )


def _parts(chunk: AnnotatedChunk) -> Iterator[tuple[str, Positions]]:
    """Role and positions; BOS joins the first turn if both or neither of them is repeated."""
    repeated, spans = chunk.positions == REPEATED, list(chunk.spans)
    if len(spans) > 1 and spans[0].role == BEGIN and repeated[0] == repeated[spans[1].start]:
        spans[:2] = [spans[1]._replace(start=0)]
    for span in spans:
        for part in _runs(np.arange(span.start, span.stop), repeated):
            yield span.role, part


def _runs(positions: Positions, flags: NDArray[np.bool_]) -> list[Positions]:
    """Split into runs of consecutive positions with equal flags."""
    breaks = (np.diff(positions) != 1) | (flags[positions[1:]] != flags[positions[:-1]])
    return np.split(positions, np.flatnonzero(breaks) + 1)


def _text(chunk: AnnotatedChunk, positions: Positions, options: ViewOptions, style: str) -> Text:
    num_omitted = 0 if options.whole else max(0, len(positions) - HEAD - TAIL)
    if num_omitted <= TAIL:
        return _marked(chunk, positions, options, style)
    return Text.assemble(
        _marked(chunk, positions[:HEAD], options, style),
        (f" … {num_omitted:,} tokens … ", "dim italic"),
        _marked(chunk, positions[-TAIL:], options, style),
    )


def _marked(chunk: AnnotatedChunk, positions: Positions, options: ViewOptions, style: str) -> Text:
    """The text of these tokens, the trained ones marked."""
    trained = chunk.chunk.trained
    runs = _runs(positions, trained)
    texts = to_printable([decode(options.tokenizer, chunk.chunk.ids[run].tolist()) for run in runs])
    marked = Text(style=style)
    for run, text in zip(runs, texts, strict=True):
        if options.plain:
            marked.append(f"⟦{text}⟧" if trained[run[0]] else text)
        else:
            marked.append(text, "bold underline" if trained[run[0]] else "")
    return marked
