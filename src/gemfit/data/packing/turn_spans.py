"""A rendered conversation as offsets of its turns, for compiled code.

A *position* indexes the words of the block that the conversation is in and, from the number of these
words on, the words of the control texts. A span is the position of its first word and that after its last.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import TRAINED, Document, Words
from gemfit.data.jsonl.line_settings import ROLES

USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")
Bounds = tuple[int, int]
_MASKED, _AS_IT_IS = ~TRAINED, ~np.uint32(0)


class ConversationSpans(NamedTuple):
    """One conversation; the fields are those of ``Document``, as spans."""

    whole: Bounds
    turns: NDArray[np.int64]
    """(turns,): position of the first word of each header."""
    headers: NDArray[np.int64]
    """(turns,): words of each header."""
    roles: NDArray[np.uint8]
    """(turns,): index into ``ROLES``."""
    bos: Bounds
    system_prefix: Bounds
    inline_system: Bounds
    user_header: Bounds
    user_end: Bounds


def as_spans(document: Document) -> tuple[ConversationSpans, Words]:
    """The spans of a conversation, and its control texts, whose positions follow those of its words."""
    texts = (
        document.bos,
        document.system_prefix,
        document.inline_system,
        document.user_header,
        document.user_end,
    )
    ends = (len(document.words) + np.cumsum([0, *map(len, texts)])).tolist()
    bos, system_prefix, inline_system, user_header, user_end = pairwise(ends)
    conversation = ConversationSpans(
        whole=(0, len(document.words)),
        turns=np.array([turn.start for turn in document.turns], np.int64),
        headers=np.array([turn.header for turn in document.turns], np.int64),
        roles=np.array([ROLES.index(turn.role) for turn in document.turns], np.uint8),
        bos=bos,
        system_prefix=system_prefix,
        inline_system=inline_system,
        user_header=user_header,
        user_end=user_end,
    )
    return conversation, np.concatenate(texts)


# Assigning a tuple to a row would compile numpy's broadcasting, which is slow to compile.


@njit_helper
def put_span(spans: Any, at: Any, start: Any, stop: Any, masked: Any) -> None:
    """Write one row of the table of spans: (rows, 3)."""
    spans[at, 0], spans[at, 1], spans[at, 2] = start, stop, masked


@njit_helper
def put_fragment(
    fragments: Any, at: Any, length: Any, context: Any, start: Any, continues: Any, mid_message: Any
) -> None:
    """Write one row of the table of fragments: (rows, 5), see ``split_turns``."""
    fragments[at, 0], fragments[at, 1], fragments[at, 2] = length, context, start
    fragments[at, 3], fragments[at, 4] = continues, mid_message


@njit
def size(span: Any) -> Any:
    """Number of words in a span."""
    return span[1] - span[0]


@njit_helper
def turns_until(conversation: Any, position: Any) -> Any:
    """Number of turns that begin at ``position`` or before."""
    # Not np.searchsorted: it is compiled for complex numbers too, which takes a second.
    low, high = 0, len(conversation.turns)
    while low < high:
        middle = (low + high) // 2
        if conversation.turns[middle] <= position:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def takes_over(conversation: Any, turn: Any, role: Any) -> Any:
    """True if the turn is of ``role`` and follows a turn of another role."""
    return conversation.roles[turn] == role and conversation.roles[turn - 1] != role


@njit_helper
def next_trained(words: Any, position: Any, stop: Any) -> Any:
    """Position of the first trained word from ``position`` on, or ``stop``."""
    while position < stop and not words[position] & TRAINED:
        position += 1
    return position


@njit
def concatenate_spans(words: Any, control: Any, spans: Any) -> Any:
    """The words of spans, one after another. spans: (n, 3), the third column is 1 for masked words."""
    total = 0
    for row in range(len(spans)):
        total += spans[row, 1] - spans[row, 0]
    found = np.empty(total, np.uint32)
    at = 0
    for row in range(len(spans)):
        start, stop = spans[row, 0], spans[row, 1]
        mask = _MASKED if spans[row, 2] else _AS_IT_IS
        target = found[at : at + stop - start]
        if start < len(words):
            _copy(words[start:stop], mask, target)
        else:
            _copy(control[start - len(words) : stop - len(words)], mask, target)
        at += stop - start
    return found


@njit_helper
def _copy(words: Any, mask: Any, target: Any) -> None:
    # A function of its own, so that the loop is vectorised.
    for index in range(len(target)):
        target[index] = words[index] & mask
