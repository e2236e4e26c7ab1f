"""Ids of contents to whole conversations: control tokens, labels and accounts, compiled.

The same tokens and flags as ``Renderer.render`` gives, for all conversations of a block in one call.
Cost: about a nanosecond a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import TRAINED, Words
from gemfit.data.jsonl.conversation import ROLES
from gemfit.data.jsonl.message_batch import Ints, Messages
from gemfit.data.render.template_segments import TemplateSegments

_SYSTEM, _ASSISTANT, _TOOL = ROLES.index("system"), ROLES.index("assistant"), ROLES.index("tool")
BEGIN, _BEFORE, _AFTER, _FINAL, HEADERS = 0, 1, 2, 3, 4
ENDS = HEADERS + len(ROLES)


class AssembledIds(NamedTuple):
    """Rendered conversations."""

    words: Words
    """(tokens,): see ``document``."""
    ends: NDArray[np.int64]
    """(conversations,): where each ends in ``words``."""
    trained: Ints
    """(conversations,)"""
    role_tokens: Ints
    """(conversations, roles)"""
    turns: NDArray[np.int64]
    """(messages,): where each turn begins in ``words``; of a system message, its content."""

    @property
    def tokens(self) -> Ints:
        """How many each conversation has: (conversations,)."""
        return np.diff(self.ends, prepend=0).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """The control texts of a segments, encoded, as flat arrays. Places are numbered as above."""

    words: Words
    edges: NDArray[np.int64]
    """(places + 1,): where each begins in ``words``."""
    system_inside: bool
    train_all: bool


def make_control(segments: TemplateSegments, control: Mapping[str, Words], loss_on: str) -> Control:
    """Lay out the control texts; a role without a turn of its own has none."""
    texts = [segments.begin, segments.system_before, segments.system_after, segments.final]
    texts += [segments.headers.get(role, "") for role in ROLES]
    texts += [segments.ends.get(role, "") for role in ROLES]
    pieces = [control[text] if text else np.empty(0, np.uint32) for text in texts]
    edges = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return Control(np.concatenate(pieces), edges, segments.system_inside, loss_on == "all")


def assemble_ids(
    ids: NDArray[np.uint32], content_ends: NDArray[np.int64], messages: Messages, control: Control
) -> AssembledIds:
    """Render every conversation. ids: (content tokens,), content_ends: (messages,)."""
    untrained = messages.roles == _TOOL
    if messages.untrained is not None:
        untrained = untrained | messages.untrained
    sizes = np.diff(control.edges)
    around = sizes[HEADERS:ENDS] + sizes[ENDS:]
    around[_SYSTEM] = sizes[_AFTER] + (0 if control.system_inside else sizes[_BEFORE] - sizes[BEGIN])
    total = len(ids) + int(around[messages.roles].sum())
    total += len(messages.last) * int(sizes[BEGIN] + sizes[_FINAL])
    return AssembledIds(
        *_assemble(
            ids,
            content_ends,
            messages.roles,
            untrained,
            messages.last,
            control.words,
            control.edges,
            control.system_inside,
            TRAINED if control.train_all else np.uint32(0),
            total,
        )
    )


@njit
def _assemble(ids, content_ends, roles, untrained, last, control, edges, inside, train_all, total):  # type: ignore[no-untyped-def]
    words = np.empty(total, np.uint32)
    ends, turns = np.empty(len(last), np.int64), np.empty(len(roles), np.int64)
    trained = np.empty(len(last), np.int32)
    role_tokens = np.zeros((len(last), len(ROLES)), np.int32)
    message = 0
    at = np.int64(0)
    for conversation in range(len(last)):
        start, inline_system = at, -1
        if roles[message] == _SYSTEM and not inside:
            flag = np.uint32(0) if untrained[message] else train_all
            at = _control(words, at, control, edges, _BEFORE, flag)
            turns[message] = at
            at = _content(words, at, ids, content_ends, message, flag)
            at = _control(words, at, control, edges, _AFTER, flag)
            role_tokens[conversation, _SYSTEM] = at - start - (edges[BEGIN + 1] - edges[BEGIN])
            message += 1
        else:
            at = _control(words, at, control, edges, BEGIN, train_all)
            if roles[message] == _SYSTEM:
                inline_system = message
                message += 1
        while message < last[conversation]:
            begin, role, inserted = at, roles[message], 0
            before = np.uint32(0) if untrained[message] else train_all
            flag = TRAINED if role == _ASSISTANT and not untrained[message] else before
            turns[message] = at
            at = _control(words, at, control, edges, HEADERS + role, before)
            if inline_system >= 0:
                system = np.uint32(0) if untrained[inline_system] else train_all
                turns[inline_system] = at
                at = _content(words, at, ids, content_ends, inline_system, system)
                at = _control(words, at, control, edges, _AFTER, system)
                inserted = at - turns[inline_system]
                role_tokens[conversation, _SYSTEM] = inserted
                inline_system = -1
            at = _content(words, at, ids, content_ends, message, flag)
            at = _control(words, at, control, edges, ENDS + role, flag)
            role_tokens[conversation, role] += at - begin - inserted
            message += 1
            if message == last[conversation]:
                at = _control(words, at, control, edges, _FINAL, flag)
        words[start] &= ~TRAINED  # nothing predicts the first token
        ends[conversation] = at
        trained[conversation] = _count(words, start, at)
    return words[:at], ends, trained, role_tokens, turns


@njit_helper
def _control(words, at, control, edges, place, flag):  # type: ignore[no-untyped-def]
    """Write a control text at ``at``; where it ends."""
    first, count = edges[place], edges[place + 1] - edges[place]
    for index in range(count):
        words[at + index] = control[first + index] | flag
    return at + count


@njit
def _content(words, at, ids, content_ends, message, flag):  # type: ignore[no-untyped-def]
    """Write the content of a message at ``at``; where it ends."""
    first = content_ends[message - 1] if message else 0
    count = content_ends[message] - first
    for index in range(count):
        words[at + index] = ids[first + index] | flag
    return at + count


@njit_helper
def _count(words, start, stop):  # type: ignore[no-untyped-def]
    """How many of the words are trained."""
    count = np.int64(0)
    for index in range(start, stop):
        count += np.int64(words[index] >> np.uint32(31))
    return count
