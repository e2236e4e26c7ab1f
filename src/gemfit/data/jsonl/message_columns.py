"""Columns of messages that grow by lines: by groups on the batch path, one by one on the line path."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gemfit.data.jsonl.block_counts import BlockCounts
from gemfit.data.jsonl.conversation import Conversation
from gemfit.data.jsonl.line_group import CODES, read_group
from gemfit.data.jsonl.line_parser import Rejection, read_line, reject_line
from gemfit.data.jsonl.line_settings import DEFAULTS, LineSettings
from gemfit.data.jsonl.message_batch import Messages
from gemfit.errors import UserError

Reject = Callable[[Rejection], None]


class ConversationCheck(Protocol):
    """Checks of a format and a loss, in addition to those of every conversation."""

    def passes(self, messages: Messages) -> bool:
        """Return True only if ``check`` passes every conversation."""

    def check(self, conversation: Conversation) -> None:
        """Raise ``UserError`` for a conversation that cannot be trained."""


@dataclass(slots=True)
class MessageColumns:
    """Columns that grow by groups of lines, so that decoded values stay in the CPU cache."""

    settings: LineSettings = DEFAULTS
    texts: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    roles: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)
    """Indices of messages."""

    def add_batch(self, lines: Sequence[bytes], first_line: int) -> BlockCounts | None:
        """Add lines by the batch path, and count them; None, and no effect, if one of them is unusual."""
        if max(map(len, lines)) > self.settings.max_bytes:
            return None
        full = [number for number, line in enumerate(lines) if line and not line.isspace()]
        group = read_group([lines[number] for number in full], self.settings)
        if group is None:
            return None
        numbers = [first_line + full[number] for number in group.batch.numbers]
        self._add(group.contents, group.roles, group.batch.message_lists, numbers, group.untrained)
        return BlockCounts(
            lines=len(lines),
            blank=len(lines) - len(full),
            untrained=len(full) - len(numbers),
            forms=group.batch.forms,
        )

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
            if len(line) <= self.settings.max_bytes and not line.strip():
                counts.blank += 1
                continue
            place = f"{path}:{number}"
            try:
                conversation = read_line(line, place, self.settings)
                if conversation.messages:
                    check.check(conversation)
            except UserError as error:
                reject_line(error, place, reject)
                counts.rejected += 1
                continue
            if not conversation.messages:
                counts.untrained += 1
                continue
            self.add(conversation, number)
            if conversation.form:
                counts.forms[conversation.form] += 1
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
