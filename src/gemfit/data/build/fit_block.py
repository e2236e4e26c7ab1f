"""Split the conversations of a block into fragments that fit into rows, in one compiled call.

Conversations that fit are one fragment each and cost nothing: their tokens are not copied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import Words
from gemfit.data.jsonl.line_settings import ROLES
from gemfit.data.jsonl.message_batch import Ints, Messages
from gemfit.data.packing.overlong import OVERLONG_MODES, fit_conversation
from gemfit.data.packing.split_turns import CONTEXT, CONTINUES, LENGTH, MID_MESSAGE, START, with_capacity
from gemfit.data.packing.turn_spans import USER, ConversationSpans, concatenate_spans, put_fragment, put_span
from gemfit.data.render.assemble_ids import BEGIN, ENDS, HEADERS, AssembledIds, ControlIds

_SYSTEM = ROLES.index("system")


class FittedRows(NamedTuple):
    """The columns of a ``TokenizedBlock`` that fitting decides."""

    words: Words
    lengths: Ints
    context: Ints
    starts: Ints
    continues: NDArray[np.bool_]
    mid_message: NDArray[np.bool_]
    conversation: Ints
    truncated: Ints
    dropped: Ints
    untrained: Ints


def fit_rows(
    assembled: AssembledIds, messages: Messages, control: ControlIds, overlong: str, seq_len: int
) -> FittedRows:
    """The fragments of a block: one for a conversation that fits into a row, several or none for others."""
    spans, fragments, counts, costs = _fit_all(
        assembled,
        messages.roles,
        messages.last,
        control.edges,
        control.system_inside,
        OVERLONG_MODES.index(overlong),
        seq_len,
    )
    words = assembled.words
    if (assembled.tokens > seq_len).any():
        words = concatenate_spans(words, control.words, spans)
    return FittedRows(
        words=words,
        lengths=fragments[:, LENGTH].copy(),
        context=fragments[:, CONTEXT].copy(),
        starts=fragments[:, START].copy(),
        continues=fragments[:, CONTINUES].astype(np.bool_),
        mid_message=fragments[:, MID_MESSAGE].astype(np.bool_),
        conversation=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        truncated=costs[:, 0].copy(),
        dropped=costs[:, 1].copy(),
        untrained=costs[:, 2].copy(),
    )


@njit
def _fit_all(assembled: Any, roles: Any, last: Any, edges: Any, inside: Any, mode: Any, seq_len: Any) -> Any:
    """Spans of words, fragments, their number for each conversation, and what fitting it cost: (…, 3)."""
    counts, costs = np.empty(len(last), np.int32), np.zeros((len(last), 3), np.int32)
    spans, fragments = np.empty((64, 3), np.int64), np.empty((len(last) + 64, 5), np.int32)
    num_spans = num_fragments = start = 0
    # The last span, which grows while conversations fit as they are, is not counted in num_spans.
    put_span(spans, 0, 0, 0, 0)
    for number in range(len(last)):
        stop, before = assembled.ends[number], num_fragments
        if stop - start <= seq_len:
            fragments = with_capacity(fragments, num_fragments + 1)
            put_fragment(fragments, num_fragments, stop - start, 0, 0, 0, 0)
            num_fragments += 1
            spans[num_spans, 1] = stop
        else:
            conversation = _conversation_spans(assembled, roles, last, edges, inside, number, start)
            num_spans += spans[num_spans, 0] < spans[num_spans, 1]
            spans, num_spans, fragments, num_fragments, cost = fit_conversation(
                assembled.words, conversation, mode, seq_len, spans, num_spans, fragments, num_fragments
            )
            costs[number, 0], costs[number, 1], costs[number, 2] = cost
            spans = with_capacity(spans, num_spans + 1)
            put_span(spans, num_spans, stop, stop, 0)
        counts[number] = num_fragments - before
        start = stop
    return spans[: num_spans + 1], fragments[:num_fragments], counts, costs


@njit_helper
def _conversation_spans(
    assembled: Any, roles: Any, last: Any, edges: Any, inside: Any, number: Any, start: Any
) -> Any:
    """A conversation as ``Renderer.render`` gives it. edges: of ``ControlIds``."""
    first, behind = last[number - 1] if number else 0, len(assembled.words)
    system_prefix, inline_system = _control(edges, BEGIN, behind), (start, start)
    if roles[first] == _SYSTEM:
        if inside:
            inline_system = (
                assembled.turns[first],
                assembled.turns[first] + assembled.role_tokens[number, _SYSTEM],
            )
        else:
            system_prefix = start, assembled.turns[first + 1]
        first += 1
    own = roles[first : last[number]]
    headers = np.empty(len(own), np.int64)
    for turn in range(len(own)):
        headers[turn] = edges[HEADERS + own[turn] + 1] - edges[HEADERS + own[turn]]
    return ConversationSpans(
        whole=(start, assembled.ends[number]),
        turns=assembled.turns[first : last[number]],
        headers=headers,
        roles=own,
        bos=_control(edges, BEGIN, behind),
        system_prefix=system_prefix,
        inline_system=inline_system,
        user_header=_control(edges, HEADERS + USER, behind),
        user_end=_control(edges, ENDS + USER, behind),
    )


@njit_helper
def _control(edges: Any, text: Any, behind: Any) -> Any:
    """The span of a control text."""
    return behind + edges[text], behind + edges[text + 1]
