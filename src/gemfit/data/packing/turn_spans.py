"""A rendered conversation as compiled code sees it: numbers of words, no words.

A *place* counts words of the block that the conversation is in and, from the number of these words on,
words of its control texts. A stretch of words is the place of its first and the one after its last.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import TRAINED, Document, Words
from gemfit.data.jsonl.conversation import ROLES

USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")
Stretch = tuple[int, int]
_MASKED, _AS_IT_IS = ~TRAINED, ~np.uint32(0)


class ConversationSpans(NamedTuple):
    """One conversation; see ``Document``, of which it has the same parts."""

    whole: Stretch
    turns: NDArray[np.int64]
    """(turns,): place of the first word of each header."""
    headers: NDArray[np.int64]
    """(turns,): words of each header."""
    roles: NDArray[np.uint8]
    """(turns,): index into ``ROLES``."""
    begin: Stretch
    lead: Stretch
    inset: Stretch
    user_header: Stretch
    user_end: Stretch


def as_spans(document: Document) -> tuple[ConversationSpans, Words]:
    """The same conversation as spans, and the control texts that are counted behind its words."""
    texts = (document.begin, document.lead, document.inset, document.user_header, document.user_end)
    ends = (len(document.words) + np.cumsum([0, *map(len, texts)])).tolist()
    begin, lead, inset, user_header, user_end = pairwise(ends)
    talk = ConversationSpans(
        whole=(0, len(document.words)),
        turns=np.array([turn.start for turn in document.turns], np.int64),
        headers=np.array([turn.header for turn in document.turns], np.int64),
        roles=np.array([ROLES.index(turn.role) for turn in document.turns], np.uint8),
        begin=begin,
        lead=lead,
        inset=inset,
        user_header=user_header,
        user_end=user_end,
    )
    return talk, np.concatenate(texts)


# An assignment of a tuple to a row would be compiled with all that numpy says about shapes that do not fit.


@njit_helper
def put_span(spans: Any, at: Any, start: Any, stop: Any, masked: Any) -> None:
    """Write one row of spans: (rows, 3)."""
    spans[at, 0], spans[at, 1], spans[at, 2] = start, stop, masked


@njit_helper
def put_atom(atoms: Any, at: Any, length: Any, context: Any, start: Any, linked: Any, torn: Any) -> None:
    """Write one row of atoms: (rows, 5), see ``split_turns``."""
    atoms[at, 0], atoms[at, 1], atoms[at, 2], atoms[at, 3], atoms[at, 4] = (
        length,
        context,
        start,
        linked,
        torn,
    )


@njit
def size(stretch: Any) -> Any:
    """How many words."""
    return stretch[1] - stretch[0]


@njit_helper
def turns_until(talk: Any, place: Any) -> Any:
    """How many turns begin at ``place`` or before."""
    # By hand: numpy's search is compiled for complex numbers and what not as well, which takes a second.
    low, high = 0, len(talk.turns)
    while low < high:
        middle = (low + high) // 2
        if talk.turns[middle] <= place:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def begins(talk: Any, turn: Any, role: Any) -> Any:
    """True where ``role`` takes over from another role."""
    return talk.roles[turn] == role and talk.roles[turn - 1] != role


@njit_helper
def next_trained(words: Any, place: Any, stop: Any) -> Any:
    """Place of the first trained word from ``place`` on, or ``stop``."""
    while place < stop and not words[place] & TRAINED:
        place += 1
    return place


@njit
def joined(words: Any, control: Any, stretches: Any) -> Any:
    """The words of stretches, one after another. stretches: (n, 3), the third is 1 where none is trained."""
    total = 0
    for row in range(len(stretches)):
        total += stretches[row, 1] - stretches[row, 0]
    found = np.empty(total, np.uint32)
    at = 0
    for row in range(len(stretches)):
        start, stop = stretches[row, 0], stretches[row, 1]
        kept = _MASKED if stretches[row, 2] else _AS_IT_IS
        here = found[at : at + stop - start]
        if start < len(words):
            _copy(words[start:stop], kept, here)
        else:
            _copy(control[start - len(words) : stop - len(words)], kept, here)
        at += stop - start
    return found


@njit_helper
def _copy(words: Any, kept: Any, found: Any) -> None:
    # Apart from all else, so that it becomes one instruction for several words.
    for index in range(len(found)):
        found[index] = words[index] & kept
