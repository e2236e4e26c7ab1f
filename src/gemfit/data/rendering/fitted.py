"""Rendered conversations to atoms that fit into rows.

Those that fit as they are cost nothing: their tokens are their atom. Each longer one becomes a
``Document`` and is fitted alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.packing.fit import Fitted, fit
from gemfit.data.reading.columns import Ints, Messages
from gemfit.data.reading.conversation import ROLES
from gemfit.data.rendering.compose import Composed
from gemfit.data.rendering.document import Document, Turn, Words, masked
from gemfit.data.rendering.prepared import Rendering

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


def fit_rows(composed: Composed, messages: Messages, rendering: Rendering) -> FittedRows:
    """One atom for each conversation that fits into a row, several or none for a longer one."""
    tokens = composed.tokens
    overlong = np.flatnonzero(tokens > rendering.seq_len)
    fitted = [
        fit(_document(composed, messages, rendering, number), rendering.overlong, rendering.seq_len)
        for number in overlong.tolist()
    ]
    num_atoms = np.ones(len(tokens), np.int32)
    num_atoms[overlong] = [len(found.atoms) for found in fitted]
    conversation = np.repeat(np.arange(len(tokens), dtype=np.int32), num_atoms)
    cut = np.repeat(tokens > rendering.seq_len, num_atoms)
    atoms = [atom for found in fitted for atom in found.atoms]

    def column(of_whole: Ints, of_cut: Sequence[int]) -> Ints:
        values = of_whole[conversation]
        values[cut] = of_cut
        return values

    zeros = np.zeros(len(tokens), np.int32)
    return FittedRows(
        words=_stored(composed, overlong, fitted),
        lengths=column(tokens, [len(atom.words) for atom in atoms]),
        context=column(zeros, [atom.repeated for atom in atoms]),
        starts=column(zeros, [atom.start for atom in atoms]),
        linked=column(zeros, [atom.linked for atom in atoms]).astype(np.bool_),
        torn=column(zeros, [atom.torn for atom in atoms]).astype(np.bool_),
        conversation=conversation,
        truncated=_accounts(zeros, overlong, [found.truncated for found in fitted]),
        dropped=_accounts(zeros, overlong, [found.dropped for found in fitted]),
        untrained=_accounts(zeros, overlong, [found.untrained for found in fitted]),
    )


def _document(composed: Composed, messages: Messages, rendering: Rendering, number: int) -> Document:
    """A conversation as ``Renderer.render`` gives it."""
    renderer, grammar = rendering.renderer, rendering.renderer.grammar
    first, last = int(messages.last[number - 1]) if number else 0, int(messages.last[number])
    start, stop = int(composed.ends[number - 1]) if number else 0, int(composed.ends[number])
    words, turns = composed.words[start:stop], composed.turns[first:last] - start
    roles = [ROLES[role] for role in messages.roles[first:last].tolist()]
    lead, inset = renderer.control[grammar.begin], words[:0]
    if roles[0] == "system":
        header = len(renderer.control[grammar.headers[roles[1]]])
        own = words[: turns[1]]
        if grammar.system_inside:
            size = int(composed.role_tokens[number, _SYSTEM])
            inset = masked(words[turns[1] + header : turns[1] + header + size])
        else:
            lead = masked(own)
        roles, turns = roles[1:], turns[1:]
    headers = {role: len(renderer.control[header]) for role, header in grammar.headers.items()}
    return Document(
        words,
        tuple(map(Turn, roles, turns.tolist(), map(headers.__getitem__, roles))),
        renderer.control[grammar.begin],
        lead,
        inset,
        user_header=renderer.control[grammar.headers["user"]],
        user_end=renderer.control[grammar.ends["user"]],
    )


def _stored(composed: Composed, overlong: NDArray[np.int64], fitted: Sequence[Fitted]) -> Words:
    """The words of all atoms in order; of a linked one also the body alone."""
    pieces, at = [], 0
    for number, found in zip(overlong.tolist(), fitted, strict=True):
        pieces.append(composed.words[at : composed.ends[number - 1] if number else 0])
        for atom in found.atoms:
            pieces += [atom.words, atom.body] if atom.linked else [atom.words]
        at = composed.ends[number]
    return np.concatenate([*pieces, composed.words[at:]]) if pieces else composed.words


def _accounts(zeros: Ints, overlong: NDArray[np.int64], tokens: Sequence[int]) -> Ints:
    """(conversations,): what fitting the longer ones cost; nothing for the others."""
    accounts = zeros.copy()
    accounts[overlong] = tokens
    return accounts
