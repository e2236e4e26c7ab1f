"""Cut a conversation that is longer than a row wherever a piece may begin.

The parts are *atoms*; ``runs`` joins neighbours to pieces. An atom ends before a question (a user's
turn after another role's). Where that is more than a row, it ends before any other turn that does
not tear an answer from its question, if that leaves it at least half full; else inside a message.

A piece in mid-conversation begins with masked context: BOS and the system message; if it begins
inside an exchange also the question, or the end of it that fits; if it begins inside a message also
that message's header and the tokens just before the cut. Context takes at most half a row; a system
message longer than a quarter of a row is not repeated.

Every trained token is trained in exactly one atom. An atom without any trained token is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.rendering.document import TRAINED, Document, Turn, Words, count_trained, masked
from gemfit.errors import UserError

_NONE: Words = np.empty(0, np.uint32)


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


def split(document: Document, seq_len: int, *, anywhere: bool = False) -> list[Atom]:
    """The atoms in order; the conversation itself where it fits.

    With ``anywhere`` an atom also ends inside a message, after about an eighth of a row, so that rows
    can be filled to the last token.
    """
    if len(document.words) <= seq_len:
        return [Atom(document.words, document.words, linked=False, start=0)]
    atoms, linked = [], False
    starts = set(document.starts)
    for words, body, start in _cuts(document, seq_len, max(8, seq_len // 8) if anywhere else None):
        if not count_trained(body):
            linked = False
            continue
        atoms.append(Atom(words, body, linked, start, start > 0 and start not in starts))
        linked = True
    return atoms


def check_room(begin: Words, seq_len: int) -> None:
    """Refuse rows that the beginning of a conversation would fill."""
    if len(begin) > seq_len // 4:
        raise UserError(
            f"data.seq_len is {seq_len}, but each conversation begins with {len(begin)} tokens that a "
            f"continued piece repeats; write at least {4 * len(begin)}"
        )


def _cuts(document: Document, seq_len: int, size: int | None) -> Iterator[tuple[Words, Words, int]]:
    """Context and body, body, and its start; a body is of about ``size`` words if that is given."""
    words, position = document.words, 0
    trained = np.append(np.flatnonzero(words & TRAINED), len(words)) if size else None
    while position < len(words):
        before, inset, offset = _context(document, position, seq_len)
        room = seq_len - len(before) - len(inset)
        end = _end(document, position, room)
        if trained is not None and size and end - position > size:
            end = _earlier(document, position, end, size, trained)
        body = words[position:end]
        yield np.concatenate([before, body[:offset], inset, body[offset:]]), body, position
        position = end


def _end(document: Document, start: int, room: int) -> int:
    """Where the atom that begins at ``start`` ends, at most ``room`` words later."""
    turns, limit = document.turns, start + room
    # The first turn stays with the system message, so nothing is cut before it.
    inside = range(max(1, document.turns_until(start)), document.turns_until(limit))
    question = next((i for i in inside if _begins(turns, i, "user")), None)
    if question is not None:
        return turns[question].start
    if limit >= len(document.words):
        return len(document.words)
    other = next((i for i in reversed(inside) if not _begins(turns, i, "assistant")), None)
    if other is not None and turns[other].start - start >= room // 2:
        return turns[other].start
    return _not_in_a_header(document, start, limit)


def _earlier(document: Document, start: int, end: int, size: int, trained: NDArray[np.int64]) -> int:
    """A place some ``size`` words behind the first trained one, if that is well before ``end``.

    A body without trained words would be left out, and the next could not be its neighbour.
    """
    first = document.turns[0]
    content = first.start + first.header + len(document.inset)
    learns = int(trained[np.searchsorted(trained, start)])
    limit = max(start, content, learns) + size
    return end if limit + size // 2 >= end else _not_in_a_header(document, start, limit)


def _not_in_a_header(document: Document, start: int, limit: int) -> int:
    """A cut right behind a header would leave the header without content: cut before it."""
    turn = document.turns[document.turns_until(limit - 1) - 1]
    return turn.start if start < turn.start < limit <= turn.start + turn.header else limit


def _context(document: Document, position: int, seq_len: int) -> tuple[Words, Words, int]:
    """Words in front of a piece, and words to insert after its first ``offset`` words."""
    if position == 0:
        return _NONE, _NONE, 0
    repeatable = len(document.lead) + len(document.inset) <= seq_len // 4
    lead, inset = (document.lead, document.inset) if repeatable else (document.begin, _NONE)
    index = document.turns_until(position) - 1
    offset = 0
    if index < 0:  # inside a system message that fills a row
        before = _tail(document, position, 0, seq_len)
    elif document.turns[index].role == "user" and document.turns[index].start == position:
        before, offset = lead, document.turns[index].header
    else:
        room = seq_len // 2 - len(lead)
        before = np.concatenate([lead, *_exchange(document, index, position, inset, room)])
        inset = _NONE
    if not len(before):  # no BOS, no system message: something has to predict the first token
        before = masked(document.words[position - 1 : position])
    return before, inset if offset else _NONE, offset


def _exchange(document: Document, index: int, position: int, inset: Words, room: int) -> list[Words]:
    """What the piece needs of the exchange that it begins in; just the tail where all is too much."""
    turn = document.turns[index]
    tail = _tail(document, position, turn.start, 2 * room)
    own = [tail]
    if position > turn.start + turn.header:
        header = masked(document.words[turn.start : turn.start + turn.header])
        own = [header, inset if turn.role == "user" else _NONE, tail]
    length = sum(map(len, own))
    if length > room:
        return [tail]
    return own if turn.role == "user" else [_question(document, index, inset, room - length), *own]


def _question(document: Document, index: int, inset: Words, room: int) -> Words:
    """The user's turn that is being answered, or its end, with header and system text."""
    turns = document.turns
    asked = next((i for i in range(index - 1, -1, -1) if turns[i].role == "user"), None)
    frame = [document.user_header, inset, document.user_end]
    room -= sum(map(len, frame))
    if asked is None or room <= 0:
        return _NONE
    start = turns[asked].start + turns[asked].header
    if asked == 0:
        start += len(document.inset)
    stop = turns[asked + 1].start - len(document.user_end)
    content = document.words[max(start, stop - room) : stop]
    return np.concatenate([document.user_header, inset, masked(content), document.user_end])


def _tail(document: Document, position: int, start: int, seq_len: int) -> Words:
    """The tokens just before a cut, so that the first token after it is predicted from its past."""
    return masked(document.words[max(start, position - max(1, seq_len // 8)) : position])


def _begins(turns: tuple[Turn, ...], index: int, role: str) -> bool:
    """True where ``role`` takes over from the other role."""
    return turns[index].role == role and turns[index - 1].role != role
