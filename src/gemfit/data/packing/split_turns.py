"""Split an overlong conversation into fragments at every position where a chunk may begin.

``chunk_packing`` merges neighbouring fragments into chunks. A fragment ends before a question (a user
turn after one of another role). Where that is more than a row, it ends before any other turn that does
not separate an answer from its question, if that leaves it at least half full; else inside a message.
``continuation_context`` says what a chunk that begins with a fragment repeats.

Every trained token is trained in exactly one fragment. A fragment without trained tokens is left out.
Cost: about 400 ns per fragment, and one pass over the words until the next trained one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import Words
from gemfit.data.packing.continuation_context import MAX_CONTEXT_SPANS, add_context
from gemfit.data.packing.turn_spans import (
    ASSISTANT,
    USER,
    next_trained,
    put_fragment,
    put_span,
    size,
    takes_over,
    turns_until,
)
from gemfit.errors import UserError

LENGTH, CONTEXT, START, CONTINUES, MID_MESSAGE = range(5)
"""Columns of the table of fragments: words with context, words of context, first word of the body in the
conversation, whether the chunk of the fragment before it may continue with it, whether the body begins
inside a message."""


def check_seq_len(bos: Words, seq_len: int) -> None:
    """Refuse rows that the repeated beginning of a conversation would fill."""
    if len(bos) > seq_len // 4:
        raise UserError(
            f"data.seq_len is {seq_len}, but each conversation begins with {len(bos)} tokens that a "
            f"continued chunk repeats; write at least {4 * len(bos)}"
        )


@njit
def split(
    words: Any,
    conversation: Any,
    seq_len: Any,
    step: Any,
    spans: Any,
    num_spans: Any,
    fragments: Any,
    num_fragments: Any,
) -> Any:
    """Append the fragments of a conversation to ``fragments``, and their words to ``spans``.

    spans: (rows, 3), see ``concatenate_spans``. fragments: (rows, 5), see the columns above. The words of
    a fragment are written as at the start of a chunk (context and body); of one that continues then also
    the body alone. With ``step`` a fragment also ends inside a message, after about that many words (0: it
    does not). Returns both tables, which may have grown, and the rows used of each.
    """
    position, stop = conversation.whole
    first_trained, continues = position, np.int64(0)
    while position < stop:
        spans = with_capacity(spans, num_spans + MAX_CONTEXT_SPANS + 4)
        fragments = with_capacity(fragments, num_fragments + 1)
        after, offset = add_context(conversation, position, seq_len, spans, num_spans)
        context = size(conversation.inline_system) if offset else 0
        for row in range(num_spans, after):
            context += spans[row, 1] - spans[row, 0]
        first_trained = next_trained(words, max(first_trained, position), stop)
        end = _fragment_end(conversation, position, seq_len - context)
        if step and end - position > step:
            end = _mid_message_end(conversation, position, end, step, first_trained)
        if first_trained < end:
            num_spans = _add_body(conversation, position, end, offset, continues, spans, after)
            length, start = context + end - position, position - conversation.whole[0]
            mid_message = _is_mid_message(conversation, position)
            put_fragment(fragments, num_fragments, length, context, start, continues, mid_message)
            num_fragments += 1
        continues = np.int64(first_trained < end)
        position = end
    return spans, num_spans, fragments, num_fragments


@njit_helper
def with_capacity(table: Any, rows: Any) -> Any:
    """The same table, grown if it has fewer than ``rows`` rows."""
    if len(table) >= rows:
        return table
    grown = np.empty((max(2 * len(table), rows), table.shape[1]), table.dtype)
    for row in range(len(table)):
        for column in range(table.shape[1]):
            grown[row, column] = table[row, column]
    return grown


@njit
def _is_mid_message(conversation: Any, position: Any) -> Any:
    turn = max(0, turns_until(conversation, position) - 1)
    return np.int64(position > conversation.whole[0] and conversation.turns[turn] != position)


@njit_helper
def _add_body(
    conversation: Any, position: Any, end: Any, offset: Any, continues: Any, spans: Any, at: Any
) -> Any:
    """Write the body after its context, and once more if the fragment continues; the row after it."""
    if offset:
        middle = min(position + offset, end)
        put_span(spans, at, position, middle, 0)
        put_span(spans, at + 1, conversation.inline_system[0], conversation.inline_system[1], 1)
        put_span(spans, at + 2, middle, end, 0)
        at += 3
    else:
        put_span(spans, at, position, end, 0)
        at += 1
    if continues:
        put_span(spans, at, position, end, 0)
        at += 1
    return at


@njit
def _fragment_end(conversation: Any, start: Any, max_words: Any) -> Any:
    """End of the fragment that begins at ``start``, at most ``max_words`` later."""
    limit = start + max_words
    # The first turn stays with the system message, so there is no cut before it.
    first, last = max(1, turns_until(conversation, start)), turns_until(conversation, limit)
    for turn in range(first, last):
        if takes_over(conversation, turn, USER):
            return conversation.turns[turn]
    if limit >= conversation.whole[1]:
        return conversation.whole[1]
    for turn in range(last - 1, first - 1, -1):
        if not takes_over(conversation, turn, ASSISTANT):
            if conversation.turns[turn] - start >= max_words // 2:
                return conversation.turns[turn]
            break
    return _not_after_header(conversation, start, limit)


@njit_helper
def _mid_message_end(conversation: Any, start: Any, end: Any, step: Any, first_trained: Any) -> Any:
    """A cut about ``step`` words after the first trained one, if that is well before ``end``.

    A body without trained words would be left out, and the next fragment could not continue it.
    """
    content = conversation.turns[0] + conversation.headers[0] + size(conversation.inline_system)
    limit = max(start, content, first_trained) + step
    return end if limit + step // 2 >= end else _not_after_header(conversation, start, limit)


@njit_helper
def _not_after_header(conversation: Any, start: Any, limit: Any) -> Any:
    """Move a cut right after a header before it: a header without content is useless."""
    turn = turns_until(conversation, limit - 1) - 1
    begin, content = conversation.turns[turn], conversation.turns[turn] + conversation.headers[turn]
    return begin if start < begin < limit <= content else limit
