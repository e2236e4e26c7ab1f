"""Cut a conversation that is longer than a row wherever a piece may begin.

The parts are *atoms*; ``runs`` joins neighbours to pieces. An atom ends before a question (a user's
turn after another role's). Where that is more than a row, it ends before any other turn that does
not tear an answer from its question, if that leaves it at least half full; else inside a message.
``context`` says what a piece that begins with it repeats.

Every trained token is trained in exactly one atom. An atom without any trained token is left out.
Compiled; cost: some 400 ns an atom, and a look at each word until the next trained one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import Words
from gemfit.data.packing.continuation_context import MOST_STRETCHES, add_context
from gemfit.data.packing.turn_spans import (
    ASSISTANT,
    USER,
    begins,
    next_trained,
    put_atom,
    put_span,
    size,
    turns_until,
)
from gemfit.errors import UserError

LENGTH, CONTEXT, START, LINKED, TORN = range(5)
"""Columns of atoms: words with context, words of context, first word of the body in the conversation,
whether it can go on in the piece of the atom before it, whether the body begins inside a message."""


def check_room(begin: Words, seq_len: int) -> None:
    """Refuse rows that the beginning of a conversation would fill."""
    if len(begin) > seq_len // 4:
        raise UserError(
            f"data.seq_len is {seq_len}, but each conversation begins with {len(begin)} tokens that a "
            f"continued piece repeats; write at least {4 * len(begin)}"
        )


@njit
def split(
    words: Any, talk: Any, seq_len: Any, step: Any, stretches: Any, at: Any, atoms: Any, made: Any
) -> Any:
    """Write the atoms of a conversation from row ``made`` on, and their words from row ``at`` on.

    stretches: (rows, 3), see ``joined``. atoms: (rows, 5), see the columns above. The words of an atom are
    written as it stands where a piece begins; of a linked one then also its body alone. With ``step`` an
    atom also ends inside a message, after about as many words (0: it does not). Returns both tables, which
    may have grown, and the rows after the last.
    """
    place, stop = talk.whole
    learns, linked = place, np.int64(0)
    while place < stop:
        stretches, atoms = room_for(stretches, at + MOST_STRETCHES + 4), room_for(atoms, made + 1)
        after, offset = add_context(talk, place, seq_len, stretches, at)
        context = size(talk.inset) if offset else 0
        for row in range(at, after):
            context += stretches[row, 1] - stretches[row, 0]
        learns = next_trained(words, max(learns, place), stop)
        end = _end(talk, place, seq_len - context)
        if step and end - place > step:
            end = _earlier(talk, place, end, step, learns)
        if learns < end:
            at = _add_body(talk, place, end, offset, linked, stretches, after)
            inside = place > talk.whole[0] and talk.turns[max(0, turns_until(talk, place) - 1)] != place
            torn = np.int64(inside)
            put_atom(atoms, made, context + end - place, context, place - talk.whole[0], linked, torn)
            made += 1
        linked = np.int64(learns < end)
        place = end
    return stretches, at, atoms, made


@njit_helper
def room_for(rows: Any, count: Any) -> Any:
    """The same rows with room for at least ``count`` of them."""
    if len(rows) >= count:
        return rows
    grown = np.empty((max(2 * len(rows), count), rows.shape[1]), rows.dtype)
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            grown[row, column] = rows[row, column]
    return grown


@njit_helper
def _add_body(talk: Any, place: Any, end: Any, offset: Any, linked: Any, stretches: Any, at: Any) -> Any:
    """Write the body behind its context, and of a linked atom once more; the row after it."""
    if offset:
        middle = min(place + offset, end)
        put_span(stretches, at, place, middle, 0)
        put_span(stretches, at + 1, talk.inset[0], talk.inset[1], 1)
        put_span(stretches, at + 2, middle, end, 0)
        at += 3
    else:
        put_span(stretches, at, place, end, 0)
        at += 1
    if linked:
        put_span(stretches, at, place, end, 0)
        at += 1
    return at


@njit
def _end(talk: Any, start: Any, room: Any) -> Any:
    """Where the atom that begins at ``start`` ends, at most ``room`` words later."""
    limit = start + room
    # The first turn stays with the system message, so nothing is cut before it.
    first, last = max(1, turns_until(talk, start)), turns_until(talk, limit)
    for turn in range(first, last):
        if begins(talk, turn, USER):
            return talk.turns[turn]
    if limit >= talk.whole[1]:
        return talk.whole[1]
    for turn in range(last - 1, first - 1, -1):
        if not begins(talk, turn, ASSISTANT):
            if talk.turns[turn] - start >= room // 2:
                return talk.turns[turn]
            break
    return _not_in_a_header(talk, start, limit)


@njit_helper
def _earlier(talk: Any, start: Any, end: Any, step: Any, learns: Any) -> Any:
    """A place some ``step`` words behind the first trained one, if that is well before ``end``.

    A body without trained words would be left out, and the next could not be its neighbour.
    """
    content = talk.turns[0] + talk.headers[0] + size(talk.inset)
    limit = max(start, content, learns) + step
    return end if limit + step // 2 >= end else _not_in_a_header(talk, start, limit)


@njit_helper
def _not_in_a_header(talk: Any, start: Any, limit: Any) -> Any:
    """A cut right behind a header would leave the header without content: cut before it."""
    turn = turns_until(talk, limit - 1) - 1
    begin, content = talk.turns[turn], talk.turns[turn] + talk.headers[turn]
    return begin if start < begin < limit <= content else limit
