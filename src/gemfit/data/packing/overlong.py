"""Make a conversation fit into rows, and say exactly what that cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gemfit.data.compiled import njit
from gemfit.data.document import Document, Words
from gemfit.data.packing.split_turns import CONTEXT, LENGTH, room_for, split
from gemfit.data.packing.turn_spans import as_spans, joined, next_trained, put_atom, put_span

WAYS = ("drop", "truncate", "split", "cut")
"""What ``data.overlong`` may be."""
_DROP, _TRUNCATE, _, _CUT = range(len(WAYS))


class Atom(NamedTuple):
    """A part of a conversation that fits into a row together with its context."""

    words: Words
    """As it stands where a piece begins: context, then the body."""
    body: Words
    """As it goes on in the piece of the atom before it."""
    linked: bool
    """True if that atom is its neighbour in the conversation."""
    start: int
    """Index in the conversation of the first word of the body."""
    torn: bool = False
    """True if the body begins inside a message."""

    @property
    def repeated(self) -> int:
        """How many of the words are masked context."""
        return len(self.words) - len(self.body)


class Fitted(NamedTuple):
    """What of one conversation is packed, and what is not; tokens."""

    atoms: list[Atom]
    truncated: int = 0
    """Cut off by ``truncate``."""
    dropped: int = 0
    """All of them, where ``drop`` left the conversation out."""
    untrained: int = 0
    """Of atoms without a single trained token, which are left out."""


def fit(document: Document, overlong: str, seq_len: int) -> Fitted:
    """Atoms of at most ``seq_len`` words; ``overlong`` (as in ``data``) says how, where it is longer.

    One conversation alone, as objects to look at; a build fits those of a block at once (``fit_rows``).
    """
    talk, control = as_spans(document)
    stretches, atoms = np.empty((64, 3), np.int64), np.empty((64, 5), np.int32)
    stretches, at, atoms, made, costs = fit_conversation(
        document.words, talk, WAYS.index(overlong), seq_len, stretches, 0, atoms, 0
    )
    stored = joined(document.words, control, stretches[:at])
    return Fitted(_atoms(document, stored, atoms[:made].tolist()), *costs)


def _atoms(document: Document, stored: Words, rows: list[list[int]]) -> list[Atom]:
    found, at = [], 0
    for length, context, start, linked, torn in rows:
        body = document.words[start : start + length - context]
        found.append(Atom(stored[at : at + length], body, bool(linked), start, bool(torn)))
        at += length + (len(body) if linked else 0)
    return found


@njit
def fit_conversation(
    words: Any, talk: Any, way: Any, seq_len: Any, stretches: Any, at: Any, atoms: Any, made: Any
) -> Any:
    """Write atoms and their words as ``split`` does, ``way`` being an index into ``WAYS``.

    Returns both tables, the rows after the last of each, and tokens truncated, dropped and untrained.
    """
    start, stop = talk.whole
    tokens = stop - start
    if tokens > seq_len and way == _DROP:
        return stretches, at, atoms, made, (0, tokens, 0)
    if tokens > seq_len and way != _TRUNCATE:
        step = max(8, seq_len // 8) if way == _CUT else 0
        first = made
        stretches, at, atoms, made = split(words, talk, seq_len, step, stretches, at, atoms, made)
        kept = 0
        for atom in range(first, made):
            kept += atoms[atom, LENGTH] - atoms[atom, CONTEXT]
        return stretches, at, atoms, made, (0, 0, tokens - kept)
    kept = min(tokens, seq_len)
    if kept < tokens and next_trained(words, start, start + kept) == start + kept:
        return stretches, at, atoms, made, (tokens, 0, 0)  # the question alone fills the row
    stretches, atoms = room_for(stretches, at + 1), room_for(atoms, made + 1)
    put_span(stretches, at, start, start + kept, 0)
    put_atom(atoms, made, kept, 0, 0, 0, 0)
    return stretches, at + 1, atoms, made + 1, (tokens - kept, 0, 0)
