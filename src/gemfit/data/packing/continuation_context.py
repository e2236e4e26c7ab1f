"""Continuation context: the masked tokens that a chunk repeats if it begins in mid-conversation.

It begins with BOS, always, and the system message; a chunk that begins inside an exchange also repeats the
question, or as much of its end as fits; one that begins inside a message also that message's header and
the tokens just before the cut. Context takes at most half a row; a system message longer than a quarter
of a row is not repeated.
"""

from __future__ import annotations

from typing import Any

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.packing.turn_spans import USER, size, turns_until

MAX_CONTEXT_SPANS = 8
"""System prefix, question (header, system text, content, end), header, system text, tail."""


@njit_helper
def add_context(conversation: Any, position: Any, seq_len: Any, spans: Any, at: Any) -> Any:
    """Write the context of a chunk that begins at ``position`` into ``spans`` from row ``at`` on.

    Returns the row after it, and after how many words of the chunk's body the inline system text is
    repeated (0: nowhere).
    """
    if position == conversation.whole[0]:
        return at, 0
    repeatable = size(conversation.system_prefix) + size(conversation.inline_system) <= seq_len // 4
    prefix = conversation.system_prefix if repeatable else conversation.bos
    system = conversation.inline_system if repeatable else (position, position)
    turn, offset, first = turns_until(conversation, position) - 1, 0, at
    if turn < 0:  # inside a system message that fills a row
        at = _add(spans, at, conversation.bos)
        at = _add(spans, at, _tail(position, conversation.whole[0] + size(conversation.bos), seq_len))
    elif conversation.roles[turn] == USER and conversation.turns[turn] == position:
        at = _add(spans, at, prefix)
        offset = conversation.headers[turn] if size(system) else 0
    else:
        at = _add(spans, at, prefix)
        budget = seq_len // 2 - size(prefix)
        at = _add_exchange(conversation, turn, position, system, budget, spans, at)
    if at == first:  # no BOS, no system message: something has to predict the first token
        at = _add(spans, at, (position - 1, position))
    return at, offset


@njit_helper
def _add_exchange(
    conversation: Any, turn: Any, position: Any, system: Any, budget: Any, spans: Any, at: Any
) -> Any:
    """Context from the exchange that the chunk begins in; only the tail if the rest exceeds ``budget``."""
    start = conversation.turns[turn]
    content = start + conversation.headers[turn]
    tail = _tail(position, start, 2 * budget)
    mid_message, is_question = position > content, conversation.roles[turn] == USER
    needed = size(tail)
    if mid_message:
        needed += conversation.headers[turn] + (size(system) if is_question else 0)
    if needed > budget:
        return _add(spans, at, tail)
    if not is_question:
        at = _add_question(conversation, turn, system, budget - needed, spans, at)
    if mid_message:
        at = _add(spans, at, (start, content))
        if is_question:
            at = _add(spans, at, system)
    return _add(spans, at, tail)


@njit_helper
def _add_question(conversation: Any, turn: Any, system: Any, budget: Any, spans: Any, at: Any) -> Any:
    """The user turn that ``turn`` answers, or as much of its end as fits, with header and system text."""
    question = turn - 1
    while question >= 0 and conversation.roles[question] != USER:
        question -= 1
    budget -= size(conversation.user_header) + size(system) + size(conversation.user_end)
    if question < 0 or budget <= 0:
        return at
    start = conversation.turns[question] + conversation.headers[question]
    if question == 0:
        start += size(conversation.inline_system)
    stop = conversation.turns[question + 1] - size(conversation.user_end)
    at = _add(spans, at, conversation.user_header)
    at = _add(spans, at, system)
    at = _add(spans, at, (max(start, stop - budget), stop))
    return _add(spans, at, conversation.user_end)


@njit_helper
def _tail(position: Any, start: Any, seq_len: Any) -> Any:
    """The tokens just before a cut, so that the first token after it has some left context."""
    return max(start, position - max(1, seq_len // 8)), position


@njit
def _add(spans: Any, at: Any, span: Any) -> Any:
    """Append a span of masked words unless it is empty."""
    if span[0] >= span[1]:
        return at
    spans[at, 0], spans[at, 1], spans[at, 2] = span[0], span[1], 1
    return at + 1
