"""JSONL parsing of a block into validated columns of messages.

Two paths give the same result. The batch path decodes groups of lines together and validates columns, with
no Python loop over messages. The line path goes through ``conversation``, which reports errors and reads
what columns cannot hold (tools, content parts); a group with anything unusual falls back to it.

Memory: the block twice, and its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Protocol, Self

import numpy as np
import orjson

from gemfit.data.jsonl.blocks import BOM
from gemfit.data.jsonl.conversation import ROLES, Conversation
from gemfit.data.jsonl.field_checks import plain_messages, plain_values, zero_weight_messages
from gemfit.data.jsonl.line_parser import LINE_LIMIT, Rejection, read_line, reject_line
from gemfit.data.jsonl.message_batch import Messages
from gemfit.data.tokenize.verification import VerificationSample
from gemfit.errors import UserError

CODES = {role: code for code, role in enumerate(ROLES)}
_PLAIN_ROLES = {role: CODES[role] for role in ("system", "user", "assistant")}
_SYSTEM = CODES["system"]
GROUP_BYTES = 2**16
"""Bytes of lines that are decoded together."""
Reject = Callable[[Rejection], None]


@dataclass(slots=True)
class BlockCounts:
    """BlockCounts of a block."""

    lines: int = 0
    blank: int = 0
    rejected: int = 0
    pii: dict[str, int] = field(default_factory=dict)
    """PII by kind."""
    sample: VerificationSample | None = None
    """Sampled texts and their ids for the reference check of the engine; None before encoding."""

    def __iadd__(self, other: Self) -> Self:
        self.lines += other.lines
        self.blank += other.blank
        self.rejected += other.rejected
        return self


class ConversationCheck(Protocol):
    """Checks of a format and a loss, in addition to those of every conversation."""

    def passes(self, messages: Messages) -> bool:
        """Return True only if ``check`` passes every conversation."""

    def check(self, conversation: Conversation) -> None:
        """Raise ``UserError`` for a conversation that cannot be trained."""


def read_block(
    block: bytes, first_line: int, path: str, check: ConversationCheck, reject: Reject | None
) -> tuple[Messages, BlockCounts]:
    """The valid conversations of whole lines, and counts; invalid lines go to ``reject``.

    ``first_line`` is the number of the first line, from 1; only line 1 may begin with a byte order mark. A
    line longer than ``LINE_LIMIT`` is rejected, so it may come truncated after one byte too many. Without
    ``reject`` the first invalid line is a ``UserError``.
    """
    if first_line == 1:
        block = block.removeprefix(BOM)
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found: list[Rejection] = []
    messages, counts = parse_batch(lines, first_line, path, check, found.append)
    if messages is None or (found and not reject):
        return parse_lines(lines, first_line, path, check, reject)
    if reject:
        for rejection in found:
            reject(rejection)
    return messages, counts


def parse_batch(
    lines: Sequence[bytes], first_line: int, path: str, check: ConversationCheck, reject: Reject
) -> tuple[Messages | None, BlockCounts]:
    """The batch path, with single groups on the line path; None if all lines have to take the line path."""
    columns, counts = MessageColumns(), BlockCounts()
    step = max(1, GROUP_BYTES * len(lines) // (1 + sum(map(len, lines))))
    for start in range(0, len(lines), step):
        group = lines[start : start + step]
        if columns.add_batch(group, first_line + start):
            counts.lines += len(group)
        else:
            counts += columns.add_lines(group, first_line + start, path, check, reject)
    messages = columns.messages()
    counts.blank = counts.lines - counts.rejected - len(messages.last)
    valid = b"\0" not in messages.text and _system_in_place(messages) and check.passes(messages)
    return messages if valid else None, counts


def parse_lines(
    lines: Sequence[bytes], first_line: int, path: str, check: ConversationCheck, reject: Reject | None
) -> tuple[Messages, BlockCounts]:
    """The line path."""
    columns = MessageColumns()
    counts = columns.add_lines(lines, first_line, path, check, reject)
    return columns.messages(), counts


@dataclass(slots=True)
class MessageColumns:
    """Columns that grow by groups of lines, so that decoded values stay in the CPU cache."""

    texts: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    roles: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)
    """Indices of messages."""

    def add_batch(self, lines: Sequence[bytes], first_line: int) -> bool:
        """Add lines by the batch path; without any effect and False if one of them is unusual."""
        full = [number for number, line in enumerate(lines) if line and not line.isspace()]
        try:
            values = [orjson.loads(lines[number]) for number in full]
            message_lists = list(map(itemgetter("messages"), values))
            items = list(chain.from_iterable(message_lists))
            roles = bytes(map(_PLAIN_ROLES.__getitem__, map(itemgetter("role"), items)))
            contents = list(map(str.encode, map(itemgetter("content"), items)))
            untrained = zero_weight_messages(items)
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return False
        if (
            not (plain_values(values) and plain_messages(items) and all(message_lists))
            or max(map(len, lines)) > LINE_LIMIT
        ):
            return False
        self._add(contents, roles, message_lists, [first_line + number for number in full], untrained)
        return True

    def add_lines(
        self,
        lines: Sequence[bytes],
        first_line: int,
        path: str,
        check: ConversationCheck,
        reject: Reject | None,
    ) -> BlockCounts:
        """Add lines by the line path, and count them."""
        counts = BlockCounts(lines=len(lines))
        for number, line in enumerate(lines, first_line):
            too_long = len(line) > LINE_LIMIT
            if not too_long and not line.strip():
                counts.blank += 1
                continue
            place = f"{path}:{number}"
            try:
                conversation = read_line(None if too_long else line.rstrip(b"\r"), place)
                check.check(conversation)
            except UserError as error:
                reject_line(error, place, reject)
                counts.rejected += 1
                continue
            self.add(conversation, number)
        return counts

    def add(self, conversation: Conversation, line: int) -> None:
        """Add one conversation."""
        contents = [message.content.encode() for message in conversation.messages]
        roles = bytes(CODES[message.role] for message in conversation.messages)
        self._add(contents, roles, [contents], [line], sorted(conversation.untrained))

    def _add(
        self,
        contents: Sequence[bytes],
        roles: bytes,
        message_lists: Sequence[Sized],
        lines: Sequence[int],
        untrained: Sequence[int],
    ) -> None:
        self.untrained.extend(len(self.lengths) + index for index in untrained)
        self.texts.append(b"".join(contents))
        self.lengths.extend(map(len, contents))
        self.roles.append(roles)
        self.counts.extend(map(len, message_lists))
        self.lines.extend(lines)

    def messages(self) -> Messages:
        """All messages that were added."""
        untrained = np.zeros(len(self.lengths), np.bool_)
        untrained[self.untrained] = True
        return Messages(
            text=b"".join(self.texts),
            ends=np.cumsum(np.array(self.lengths, np.int64)),
            roles=np.frombuffer(b"".join(self.roles), np.uint8),
            last=np.cumsum(np.array(self.counts, np.int64)),
            lines=np.array(self.lines, np.int64),
            untrained=untrained if self.untrained else None,
        )


def _system_in_place(messages: Messages) -> bool:
    """Whether every system message is the first of at least two messages."""
    firsts = np.concatenate([np.zeros(1, np.int64), messages.last[:-1]])[: len(messages.last)]
    system = messages.roles == _SYSTEM
    leading = system[firsts] if len(firsts) else system
    alone = leading & (messages.last - firsts == 1)
    return int(system.sum()) == int(leading.sum()) and not alone.any()
