"""Roles of the tokens of a chunk, found by the control tokens of the format.

Contents hold no special tokens, so a turn that ends in one is found with certainty. Under ``eos: literal``
a text may spell a header; it is taken for one here, as by the model.
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
"""Role of the tokens before the first turn (BOS)."""
UNKNOWN = "unknown"
"""Role of a chunk's first tokens if their header was not repeated for lack of room."""


class Span(NamedTuple):
    """Consecutive tokens of a chunk with one role, or of the format."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class ControlTokens:
    """The control tokens of a format."""

    begin: Ids
    headers: tuple[tuple[str, Ids], ...]
    """Role and header, the longest header first."""
    ends: tuple[Ids, ...]
    """Ends of a turn, the longest first."""
    final: Ids
    """End of a conversation."""
    system_inside: bool
    user_header: Ids
    system_end: Ids
    """End of a system text, also inside a user turn."""


def make_control_tokens(tokenizer: Any, format: str, eos: str) -> ControlTokens:
    """The control tokens of ``format`` with this tokenizer."""
    renderer = make_renderer(tokenizer, format, eos)
    segments = renderer.segments

    def ids(text: str) -> Ids:
        return renderer.control[text].view(np.int32)

    begin = ids(segments.begin)
    headers = {role: ids(text) for role, text in segments.headers.items()}
    if not segments.system_inside and (system := ids(segments.system_before)[len(begin) :]).size:
        headers["system"] = system
    ends = {
        ids(text).tobytes(): ids(text) for text in [*segments.ends.values(), segments.system_after] if text
    }
    if segments.system_inside:
        ends.pop(ids(segments.system_after).tobytes(), None)
    return ControlTokens(
        begin=begin,
        headers=tuple(sorted(headers.items(), key=lambda item: -len(item[1]))),
        ends=tuple(sorted(ends.values(), key=len, reverse=True)),
        final=ids(segments.final),
        system_inside=segments.system_inside,
        user_header=headers["user"],
        system_end=ids(segments.system_after),
    )


def spans(ids: Ids, control: ControlTokens) -> list[Span]:
    """Roles of all tokens; consecutive spans that cover the chunk."""
    at = len(control.begin) if _starts(ids, 0, control.begin) else 0
    found = [Span(BEGIN, 0, at)] if at else []
    while at < len(ids):
        role = next((role for role, header in control.headers if _starts(ids, at, header)), UNKNOWN)
        stop = _turn_end(ids, at, control)
        found.append(Span(role, at, stop))
        at = stop
    return found


def header_before_repeated_system(chunk: RowChunk, control: ControlTokens) -> tuple[int, int] | None:
    """Position and length of a header before a repeated system text, if no label shows it.

    Found by its tokens: no turn ends before the end of the system text, and no header is where one would be
    otherwise. A cut inside a user turn looks the same if the user wrote the same separator there.
    """
    at, count = len(control.begin), len(control.user_header)
    if not control.system_inside or not chunk.start or chunk.repeated <= at:
        return None
    if not _starts(chunk.ids, at, control.user_header) or _starts(
        chunk.ids, chunk.repeated, control.user_header
    ):
        return None
    within = chunk.ids[at + count : chunk.repeated + count]
    if not np.array_equal(within[len(within) - len(control.system_end) :], control.system_end):
        return None
    return None if any(_find(within, 0, end) < len(within) for end in control.ends) else (at, count)


def _turn_end(ids: Ids, at: int, control: ControlTokens) -> int:
    """End of the turn around ``at``, with its end tokens and those of the conversation."""
    stops = [(found, -len(end)) for end in control.ends if (found := _find(ids, at, end)) < len(ids)]
    if not stops:
        return len(ids)
    found, length = min(stops)
    stop = found - length
    return stop + len(control.final) if _starts(ids, stop, control.final) else stop


def _find(ids: Ids, at: int, sought: Ids) -> int:
    """First occurrence of ``sought`` from ``at`` on; the length of ``ids`` if there is none."""
    for place in at + np.flatnonzero(ids[at:] == sought[0]):
        if _starts(ids, int(place), sought):
            return int(place)
    return len(ids)


def _starts(ids: Ids, at: int, sought: Ids) -> bool:
    return bool(len(sought)) and np.array_equal(ids[at : at + len(sought)], sought)
