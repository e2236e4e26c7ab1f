"""The bytes of a block to columns of messages, checked.

Two ways, one result. At once: some lines are decoded together, and all checks are made on columns; no
work for a message stands outside a C loop. Line by line: through ``conversation``, which knows what to
say about a bad line and reads what columns do not hold (tools, parts). Lines among which the first way
finds anything out of the ordinary go the second way.

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
from gemfit.data.jsonl.field_checks import plain_messages, plain_values, weightless
from gemfit.data.jsonl.line_parser import LINE_LIMIT, Rejection, read_line, reject_line
from gemfit.data.jsonl.message_batch import Messages
from gemfit.data.tokenize.verification import VerificationSample
from gemfit.errors import UserError

CODES = {role: code for code, role in enumerate(ROLES)}
_PLAIN_ROLES = {role: CODES[role] for role in ("system", "user", "assistant")}
_SYSTEM = CODES["system"]
GROUP_BYTES = 2**16
"""Lines decoded together."""
Reject = Callable[[Rejection], None]


@dataclass(slots=True)
class Counts:
    """What was found in a block."""

    lines: int = 0
    blank: int = 0
    rejected: int = 0
    personal: dict[str, int] = field(default_factory=dict)
    """Finds of personal data by kind."""
    picked: VerificationSample | None = None
    """Some of its texts and their ids, for who watches the engine; None before it has encoded."""

    def __iadd__(self, other: Self) -> Self:
        self.lines += other.lines
        self.blank += other.blank
        self.rejected += other.rejected
        return self


class ConversationCheck(Protocol):
    """What a format and a loss ask of a conversation, beside what every conversation has to be."""

    def passes(self, messages: Messages) -> bool:
        """True only if ``check`` passes every conversation."""

    def check(self, conversation: Conversation) -> None:
        """Raise ``UserError`` for a conversation that cannot be trained."""


def read_block(
    block: bytes, first_line: int, path: str, check: ConversationCheck, reject: Reject | None
) -> tuple[Messages, Counts]:
    """The valid conversations of whole lines, and what else was there; bad lines go to ``reject``.

    ``first_line`` is the number of the first line, from 1; only there may a byte order mark stand. A line
    longer than ``LINE_LIMIT`` is refused, so it may come cut behind the first byte too many. Without
    ``reject`` the first bad line is a ``UserError``.
    """
    if first_line == 1:
        block = block.removeprefix(BOM)
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found: list[Rejection] = []
    messages, counts = read_groups(lines, first_line, path, check, found.append)
    if messages is None or (found and not reject):
        return read_each(lines, first_line, path, check, reject)
    if reject:
        for rejection in found:
            reject(rejection)
    return messages, counts


def read_groups(
    lines: Sequence[bytes], first_line: int, path: str, check: ConversationCheck, reject: Reject
) -> tuple[Messages | None, Counts]:
    """Group by group, each at once where that can be; None where only going line by line can tell."""
    columns, counts = MessageColumns(), Counts()
    step = max(1, GROUP_BYTES * len(lines) // (1 + sum(map(len, lines))))
    for start in range(0, len(lines), step):
        group = lines[start : start + step]
        if columns.take(group, first_line + start):
            counts.lines += len(group)
        else:
            counts += columns.take_each(group, first_line + start, path, check, reject)
    messages = columns.messages()
    counts.blank = counts.lines - counts.rejected - len(messages.last)
    right = b"\0" not in messages.text and _system_in_place(messages) and check.passes(messages)
    return messages if right else None, counts


def read_each(
    lines: Sequence[bytes], first_line: int, path: str, check: ConversationCheck, reject: Reject | None
) -> tuple[Messages, Counts]:
    """The same, line by line."""
    columns = MessageColumns()
    counts = columns.take_each(lines, first_line, path, check, reject)
    return columns.messages(), counts


@dataclass(slots=True)
class MessageColumns:
    """Columns that grow by a group of lines at a time, so that decoded values stay in the cache."""

    texts: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    roles: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)
    """Indices of messages."""

    def take(self, lines: Sequence[bytes], first_line: int) -> bool:
        """Decode lines together; nothing is taken, and False, if any of them is out of the ordinary."""
        full = [number for number, line in enumerate(lines) if line and not line.isspace()]
        try:
            values = [orjson.loads(lines[number]) for number in full]
            talks = list(map(itemgetter("messages"), values))
            items = list(chain.from_iterable(talks))
            roles = bytes(map(_PLAIN_ROLES.__getitem__, map(itemgetter("role"), items)))
            contents = list(map(str.encode, map(itemgetter("content"), items)))
            untrained = weightless(items)
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return False
        if (
            not (plain_values(values) and plain_messages(items) and all(talks))
            or max(map(len, lines)) > LINE_LIMIT
        ):
            return False
        self._add(contents, roles, talks, [first_line + number for number in full], untrained)
        return True

    def take_each(
        self,
        lines: Sequence[bytes],
        first_line: int,
        path: str,
        check: ConversationCheck,
        reject: Reject | None,
    ) -> Counts:
        """Take lines one by one, and count them."""
        counts = Counts(lines=len(lines))
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
        """Take one conversation."""
        contents = [message.content.encode() for message in conversation.messages]
        roles = bytes(CODES[message.role] for message in conversation.messages)
        self._add(contents, roles, [contents], [line], sorted(conversation.untrained))

    def _add(
        self,
        contents: Sequence[bytes],
        roles: bytes,
        talks: Sequence[Sized],
        lines: Sequence[int],
        untrained: Sequence[int],
    ) -> None:
        self.untrained.extend(len(self.lengths) + index for index in untrained)
        self.texts.append(b"".join(contents))
        self.lengths.extend(map(len, contents))
        self.roles.append(roles)
        self.counts.extend(map(len, talks))
        self.lines.extend(lines)

    def messages(self) -> Messages:
        """What was taken."""
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
    """True where each system message is the first of several."""
    firsts = np.concatenate([np.zeros(1, np.int64), messages.last[:-1]])[: len(messages.last)]
    system = messages.roles == _SYSTEM
    leading = system[firsts] if len(firsts) else system
    alone = leading & (messages.last - firsts == 1)
    return int(system.sum()) == int(leading.sum()) and not alone.any()
