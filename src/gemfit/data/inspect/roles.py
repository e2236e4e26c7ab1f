"""Whose words the tokens of a chunk are, read from its control tokens.

A content cannot hold a special token, so a turn that ends in one is found with certainty. Under
``eos: literal`` a text may spell a header; it then looks like one here, as it does to the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.inspect.chunks import RowChunk
from gemfit.data.render.renderer import make_renderer

Ids = NDArray[np.int32]
BEGIN = "begin"
"""The role of what stands before the first turn (BOS)."""
UNKNOWN = "unknown"
"""The role of a chunk's first words, where the header that they belong to had no room."""


class Span(NamedTuple):
    """Neighbouring tokens of a chunk that are one role's, or control."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """The control tokens of a format."""

    begin: Ids
    headers: tuple[tuple[str, Ids], ...]
    """Role and header, the longest header first."""
    ends: tuple[Ids, ...]
    """What ends a turn, the longest first."""
    final: Ids
    """What ends a conversation."""
    system_inside: bool
    user_header: Ids
    system_end: Ids
    """What ends a system text, also where it stands inside a user's turn."""


def make_marks(tokenizer: Any, format: str, eos: str) -> Marks:
    """The control tokens of ``format`` with this tokenizer."""
    renderer = make_renderer(tokenizer, format, eos)
    grammar = renderer.grammar

    def ids(text: str) -> Ids:
        return renderer.control[text].view(np.int32)

    begin = ids(grammar.begin)
    headers = {role: ids(text) for role, text in grammar.headers.items()}
    if not grammar.system_inside and (system := ids(grammar.system_before)[len(begin) :]).size:
        headers["system"] = system
    ends = {ids(text).tobytes(): ids(text) for text in [*grammar.ends.values(), grammar.system_after] if text}
    if grammar.system_inside:
        ends.pop(ids(grammar.system_after).tobytes(), None)
    return Marks(
        begin=begin,
        headers=tuple(sorted(headers.items(), key=lambda item: -len(item[1]))),
        ends=tuple(sorted(ends.values(), key=len, reverse=True)),
        final=ids(grammar.final),
        system_inside=grammar.system_inside,
        user_header=headers["user"],
        system_end=ids(grammar.system_after),
    )


def spans(ids: Ids, marks: Marks) -> list[Span]:
    """Who speaks where; the spans follow one another and cover the chunk."""
    at = len(marks.begin) if _starts(ids, 0, marks.begin) else 0
    found = [Span(BEGIN, 0, at)] if at else []
    while at < len(ids):
        role = next((role for role, header in marks.headers if _starts(ids, at, header)), UNKNOWN)
        stop = _turn_end(ids, at, marks)
        found.append(Span(role, at, stop))
        at = stop
    return found


def inner_header(chunk: RowChunk, marks: Marks) -> tuple[int, int] | None:
    """Place and length of a header that has repeated system text behind it, where no label shows it.

    Told by its looks: up to what ends the system text no turn ends, and no header stands where one would
    stand otherwise. A cut inside a user's turn looks alike where the user wrote the same break there.
    """
    at, count = len(marks.begin), len(marks.user_header)
    if not marks.system_inside or not chunk.start or chunk.repeated <= at:
        return None
    if not _starts(chunk.ids, at, marks.user_header) or _starts(chunk.ids, chunk.repeated, marks.user_header):
        return None
    within = chunk.ids[at + count : chunk.repeated + count]
    if not np.array_equal(within[len(within) - len(marks.system_end) :], marks.system_end):
        return None
    return None if any(_find(within, 0, end) < len(within) for end in marks.ends) else (at, count)


def _turn_end(ids: Ids, at: int, marks: Marks) -> int:
    """Where the turn around ``at`` ends, its end and that of the conversation included."""
    stops = [(found, -len(end)) for end in marks.ends if (found := _find(ids, at, end)) < len(ids)]
    if not stops:
        return len(ids)
    found, length = min(stops)
    stop = found - length
    return stop + len(marks.final) if _starts(ids, stop, marks.final) else stop


def _find(ids: Ids, at: int, sought: Ids) -> int:
    """The first place from ``at`` on where ``sought`` stands; the end where it does not."""
    for place in at + np.flatnonzero(ids[at:] == sought[0]):
        if _starts(ids, int(place), sought):
            return int(place)
    return len(ids)


def _starts(ids: Ids, at: int, sought: Ids) -> bool:
    return bool(len(sought)) and np.array_equal(ids[at : at + len(sought)], sought)
