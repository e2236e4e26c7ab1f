"""Whose words the tokens of held-out rows are, and the how-manieth turn of that speaker.

A conversation may lie in several pieces, in any rows. A turn begins where a header stands that repeats
nothing; what precedes the first header of a piece, and what follows a repeated one, goes on with the turn
before. It looks at every piece of the split once: some 100 microseconds each.
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
    """Neighbouring places of a row that hold one turn of one conversation."""

    document: int
    role: str
    turn: int
    """Of this role in its conversation, from 1; 0 for what belongs to none."""
    start: int
    stop: int


class _Placed(NamedTuple):
    row: int
    piece: AnnotatedChunk


def stretches(rows: Iterable[AnnotatedRow]) -> dict[int, list[TurnSpan]]:
    """The turns in each row, by the row's number; ``rows`` are all rows of a split."""
    documents: dict[int, list[_Placed]] = defaultdict(list)
    for row in rows:
        for piece in row.chunks:
            documents[piece.chunk.document].append(_Placed(row.number, piece))
    found: dict[int, list[TurnSpan]] = defaultdict(list)
    for pieces in documents.values():
        for number, stretch in _of_document(pieces):
            found[number].append(stretch)
    return found


def _of_document(pieces: list[_Placed]) -> Iterator[tuple[int, TurnSpan]]:
    turns: dict[str, int] = {}
    role = UNKNOWN
    ordered = sorted(pieces, key=lambda placed: placed.piece.chunk.start)
    for _, copies in groupby(ordered, key=lambda placed: placed.piece.chunk.start):
        before, known = role, dict(turns)
        for row, piece in copies:  # a conversation may be in the pack several times
            role, turns = before, dict(known)
            for span in piece.spans:
                goes_on = span.role == UNKNOWN or piece.positions[span.start] == REPEATED
                if not goes_on:
                    role, turns[span.role] = span.role, turns.get(span.role, 0) + 1
                turn = 0 if role in (BEGIN, UNKNOWN) else turns[role]
                begin = piece.chunk.begin
                yield row, TurnSpan(piece.chunk.document, role, turn, begin + span.start, begin + span.stop)
