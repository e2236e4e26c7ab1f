"""Rendered conversations to atoms that fit into rows, all of a block in one compiled call.

Those that fit as they are cost nothing: their tokens are their atom.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import Words
from gemfit.data.jsonl.conversation import ROLES
from gemfit.data.jsonl.message_batch import Ints, Messages
from gemfit.data.packing.overlong import WAYS, fit_conversation
from gemfit.data.packing.split_turns import CONTEXT, LENGTH, LINKED, START, TORN, room_for
from gemfit.data.packing.turn_spans import USER, ConversationSpans, joined, put_atom, put_span
from gemfit.data.render.assemble_ids import BEGIN, ENDS, HEADERS, AssembledIds, Control

_SYSTEM = ROLES.index("system")


class FittedRows(NamedTuple):
    """The columns of a ``Part`` that fitting decides."""

    words: Words
    lengths: Ints
    context: Ints
    starts: Ints
    linked: NDArray[np.bool_]
    torn: NDArray[np.bool_]
    conversation: Ints
    truncated: Ints
    dropped: Ints
    untrained: Ints


def fit_rows(
    composed: AssembledIds, messages: Messages, control: Control, overlong: str, seq_len: int
) -> FittedRows:
    """One atom for each conversation that fits into a row, several or none for a longer one."""
    stretches, atoms, counts, costs = _fit_all(
        composed,
        messages.roles,
        messages.last,
        control.edges,
        control.system_inside,
        WAYS.index(overlong),
        seq_len,
    )
    words = composed.words
    if (composed.tokens > seq_len).any():
        words = joined(words, control.words, stretches)
    return FittedRows(
        words=words,
        lengths=atoms[:, LENGTH].copy(),
        context=atoms[:, CONTEXT].copy(),
        starts=atoms[:, START].copy(),
        linked=atoms[:, LINKED].astype(np.bool_),
        torn=atoms[:, TORN].astype(np.bool_),
        conversation=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        truncated=costs[:, 0].copy(),
        dropped=costs[:, 1].copy(),
        untrained=costs[:, 2].copy(),
    )


@njit
def _fit_all(composed: Any, roles: Any, last: Any, edges: Any, inside: Any, way: Any, seq_len: Any) -> Any:
    """Stretches of words, atoms, their number for each conversation, and what fitting it cost: (…, 3)."""
    counts, costs = np.empty(len(last), np.int32), np.zeros((len(last), 3), np.int32)
    stretches, atoms = np.empty((64, 3), np.int64), np.empty((len(last) + 64, 5), np.int32)
    at = made = start = 0
    # The stretch that grows while conversations fit as they are.
    put_span(stretches, 0, 0, 0, 0)
    for number in range(len(last)):
        stop, before = composed.ends[number], made
        if stop - start <= seq_len:
            atoms = room_for(atoms, made + 1)
            put_atom(atoms, made, stop - start, 0, 0, 0, 0)
            made += 1
            stretches[at, 1] = stop
        else:
            talk = _talk(composed, roles, last, edges, inside, number, start)
            at += stretches[at, 0] < stretches[at, 1]
            stretches, at, atoms, made, cost = fit_conversation(
                composed.words, talk, way, seq_len, stretches, at, atoms, made
            )
            costs[number, 0], costs[number, 1], costs[number, 2] = cost
            stretches = room_for(stretches, at + 1)
            put_span(stretches, at, stop, stop, 0)
        counts[number] = made - before
        start = stop
    return stretches[: at + 1], atoms[:made], counts, costs


@njit_helper
def _talk(composed: Any, roles: Any, last: Any, edges: Any, inside: Any, number: Any, start: Any) -> Any:
    """A conversation as ``Renderer.render`` gives it. edges: of ``Control``."""
    first, behind = last[number - 1] if number else 0, len(composed.words)
    lead, inset = _control(edges, BEGIN, behind), (start, start)
    if roles[first] == _SYSTEM:
        if inside:
            inset = composed.turns[first], composed.turns[first] + composed.role_tokens[number, _SYSTEM]
        else:
            lead = start, composed.turns[first + 1]
        first += 1
    own = roles[first : last[number]]
    headers = np.empty(len(own), np.int64)
    for turn in range(len(own)):
        headers[turn] = edges[HEADERS + own[turn] + 1] - edges[HEADERS + own[turn]]
    return ConversationSpans(
        whole=(start, composed.ends[number]),
        turns=composed.turns[first : last[number]],
        headers=headers,
        roles=own,
        begin=_control(edges, BEGIN, behind),
        lead=lead,
        inset=inset,
        user_header=_control(edges, HEADERS + USER, behind),
        user_end=_control(edges, ENDS + USER, behind),
    )


@njit_helper
def _control(edges: Any, place: Any, behind: Any) -> Any:
    """The stretch of a control text."""
    return behind + edges[place], behind + edges[place + 1]
