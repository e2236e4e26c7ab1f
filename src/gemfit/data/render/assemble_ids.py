"""Assemble the token ids of rendered conversations from contents and control tokens, compiled.

Gives the tokens and trained flags of ``Renderer.render`` for all conversations of a block in one call.
Cost: about a nanosecond per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.document import TRAINED, Words
from gemfit.data.jsonl.line_settings import ROLES
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
    """(conversations,): end of each in ``words``."""
    trained: Ints
    """(conversations,)"""
    role_tokens: Ints
    """(conversations, roles)"""
    turns: NDArray[np.int64]
    """(messages,): start of each turn in ``words``; for a system message, of its content."""

    @property
    def tokens(self) -> Ints:
        """Tokens of each conversation: (conversations,)."""
        return np.diff(self.ends, prepend=0).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class ControlIds:
    """Encoded control texts of a format as flat arrays, numbered by the constants above."""

    words: Words
    edges: NDArray[np.int64]
    """(control texts + 1,): offsets in ``words``."""
    system_inside: bool
    train_all: bool


def make_control_ids(segments: TemplateSegments, control: Mapping[str, Words], loss_on: str) -> ControlIds:
    """Flatten the encoded control texts; a role without its own turn has none."""
    texts = [segments.begin, segments.system_before, segments.system_after, segments.final]
    texts += [segments.headers.get(role, "") for role in ROLES]
    texts += [segments.ends.get(role, "") for role in ROLES]
    encoded = [control[text] if text else np.empty(0, np.uint32) for text in texts]
    edges = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return ControlIds(np.concatenate(encoded), edges, segments.system_inside, loss_on == "all")


def assemble_ids(
    ids: NDArray[np.uint32], content_ends: NDArray[np.int64], messages: Messages, control: ControlIds
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
def _assemble(ids, content_ends, roles, untrained, last, control, edges, system_inside, train_all, total):  # type: ignore[no-untyped-def]
    words = np.empty(total, np.uint32)
    ends, turns = np.empty(len(last), np.int64), np.empty(len(roles), np.int64)
    trained = np.empty(len(last), np.int32)
    role_tokens = np.zeros((len(last), len(ROLES)), np.int32)
    message = 0
    at = np.int64(0)
    for conversation in range(len(last)):
        start, inline_system = at, -1
        if roles[message] == _SYSTEM and not system_inside:
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
        words[start] &= ~TRAINED  # no token predicts the first one
        ends[conversation] = at
        trained[conversation] = _count(words, start, at)
    return words[:at], ends, trained, role_tokens, turns


@njit_helper
def _control(words, at, control, edges, text, flag):  # type: ignore[no-untyped-def]
    """Write a control text at ``at``; its end."""
    first, count = edges[text], edges[text + 1] - edges[text]
    for index in range(count):
        words[at + index] = control[first + index] | flag
    return at + count


@njit
def _content(words, at, ids, content_ends, message, flag):  # type: ignore[no-untyped-def]
    """Write the content of a message at ``at``; its end."""
    first = content_ends[message - 1] if message else 0
    count = content_ends[message] - first
    for index in range(count):
        words[at + index] = ids[first + index] | flag
    return at + count


@njit_helper
def _count(words, start, stop):  # type: ignore[no-untyped-def]
    """Number of trained words."""
    count = np.int64(0)
    for index in range(start, stop):
        count += np.int64(words[index] >> np.uint32(31))
    return count
