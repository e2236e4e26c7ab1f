"""What a piece in mid-conversation repeats of what stands before it: masked context.

It begins with BOS and the system message; if it begins inside an exchange also with the question, or
the end of it that fits; if it begins inside a message also with that message's header and the tokens
just before the cut. Context takes at most half a row; a system message longer than a quarter of a row is
not repeated.
"""

from __future__ import annotations

from typing import Any

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.packing.turn_spans import USER, size, turns_until

MOST_STRETCHES = 8
"""Of a context: lead, question (header, system text, content, end), header, system text, tail."""


@njit_helper
def add_context(talk: Any, place: Any, seq_len: Any, stretches: Any, at: Any) -> Any:
    """Write what a piece that begins at ``place`` repeats into ``stretches`` from row ``at`` on.

    Returns the row after it, and after how many of its own words the piece repeats the system text as
    well (0: nowhere; that is where the system text stands inside the first user turn).
    """
    if place == talk.whole[0]:
        return at, 0
    repeatable = size(talk.lead) + size(talk.inset) <= seq_len // 4
    lead = talk.lead if repeatable else talk.begin
    inset = talk.inset if repeatable else (place, place)
    turn, offset, first = turns_until(talk, place) - 1, 0, at
    if turn < 0:  # inside a system message that fills a row
        at = _add(stretches, at, _tail(place, talk.whole[0], seq_len))
    elif talk.roles[turn] == USER and talk.turns[turn] == place:
        at = _add(stretches, at, lead)
        offset = talk.headers[turn] if size(inset) else 0
    else:
        at = _add(stretches, at, lead)
        at = _exchange(talk, turn, place, inset, seq_len // 2 - size(lead), stretches, at)
    if at == first:  # no BOS, no system message: something has to predict the first token
        at = _add(stretches, at, (place - 1, place))
    return at, offset


@njit_helper
def _exchange(talk: Any, turn: Any, place: Any, inset: Any, room: Any, stretches: Any, at: Any) -> Any:
    """What the piece needs of the exchange that it begins in; just the tail where all is too much."""
    start, content = talk.turns[turn], talk.turns[turn] + talk.headers[turn]
    tail = _tail(place, start, 2 * room)
    inside, asked = place > content, talk.roles[turn] == USER
    own = size(tail)
    if inside:
        own += talk.headers[turn] + (size(inset) if asked else 0)
    if own > room:
        return _add(stretches, at, tail)
    if not asked:
        at = _question(talk, turn, inset, room - own, stretches, at)
    if inside:
        at = _add(stretches, at, (start, content))
        if asked:
            at = _add(stretches, at, inset)
    return _add(stretches, at, tail)


@njit_helper
def _question(talk: Any, turn: Any, inset: Any, room: Any, stretches: Any, at: Any) -> Any:
    """The user's turn that is being answered, or its end, with header and system text."""
    asked = turn - 1
    while asked >= 0 and talk.roles[asked] != USER:
        asked -= 1
    room -= size(talk.user_header) + size(inset) + size(talk.user_end)
    if asked < 0 or room <= 0:
        return at
    start = talk.turns[asked] + talk.headers[asked]
    if asked == 0:
        start += size(talk.inset)
    stop = talk.turns[asked + 1] - size(talk.user_end)
    at = _add(stretches, at, talk.user_header)
    at = _add(stretches, at, inset)
    at = _add(stretches, at, (max(start, stop - room), stop))
    return _add(stretches, at, talk.user_end)


@njit_helper
def _tail(place: Any, start: Any, seq_len: Any) -> Any:
    """The tokens just before a cut, so that the first token after it is predicted from its past."""
    return max(start, place - max(1, seq_len // 8)), place


@njit
def _add(stretches: Any, at: Any, stretch: Any) -> Any:
    """One more stretch of masked words, unless it is empty."""
    if stretch[0] >= stretch[1]:
        return at
    stretches[at, 0], stretches[at, 1], stretches[at, 2] = stretch[0], stretch[1], 1
    return at + 1
