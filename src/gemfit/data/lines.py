"""The bytes of a block to columns of messages, checked.

Two ways, one result. At once: every line is decoded, and all checks are made on the columns; this does
no work a message that is not inside a C loop. Line by line: through ``conversation``, which knows what
to say about a bad line and reads what the columns do not hold (tools, parts, weights). A block in which
the first way finds anything out of the ordinary goes the second way from its beginning.

Memory: the block, its decoded values (some three times as much) and its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from gemfit.data.columns import Messages
from gemfit.data.conversation import ROLES, Conversation
from gemfit.data.keys import all_plain
from gemfit.data.read import LINE_LIMIT, Rejection, read_line, reject_line
from gemfit.errors import UserError

CODES = {role: code for code, role in enumerate(ROLES)}
_PLAIN_ROLES = {role: CODES[role] for role in ("system", "user", "assistant")}
_SYSTEM = CODES["system"]
_BOM = b"\xef\xbb\xbf"
Reject = Callable[[Rejection], None]


@dataclass(slots=True)
class Counts:
    """What was found in a block."""

    lines: int = 0
    blank: int = 0
    rejected: int = 0
    personal: dict[str, int] = field(default_factory=dict)
    """Finds of personal data by kind."""


class Check(Protocol):
    """What a format and a loss ask of a conversation, beside what every conversation has to be."""

    def passes(self, messages: Messages) -> bool:
        """True only if ``check`` passes every conversation."""

    def check(self, conversation: Conversation) -> None:
        """Raise ``UserError`` for a conversation that cannot be trained."""


def read_block(
    block: bytes, first_line: int, path: str, check: Check, reject: Reject | None
) -> tuple[Messages, Counts]:
    """The valid conversations of whole lines, and what else was there; bad lines go to ``reject``.

    ``first_line`` is the number of the first line, from 1; only there may a byte order mark stand. A line
    longer than ``LINE_LIMIT`` is refused, so it may come cut behind the first byte too many. Without
    ``reject`` the first bad line is a ``UserError``.
    """
    if first_line == 1:
        block = block.removeprefix(_BOM)
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    messages = read_at_once(lines, first_line)
    if messages is not None and check.passes(messages):
        return messages, Counts(lines=len(lines), blank=len(lines) - len(messages.last))
    return read_each(lines, first_line, path, check, reject)


def read_at_once(lines: Sequence[bytes], first_line: int) -> Messages | None:
    """All lines together, or None if any of them is out of the ordinary."""
    full = [number for number, line in enumerate(lines) if line and not line.isspace()]
    chosen = lines if len(full) == len(lines) else [lines[number] for number in full]
    if any(len(line) > LINE_LIMIT for line in lines):
        return None
    try:
        values = list(map(orjson.loads, chosen))
        talks = list(map(itemgetter("messages"), values))
        items = list(chain.from_iterable(talks))
        roles = bytes(map(_PLAIN_ROLES.__getitem__, map(itemgetter("role"), items)))
        contents = list(map(str.encode, map(itemgetter("content"), items)))
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    text = b"".join(contents)
    if b"\0" in text or not _plain_keys(values, items) or not all(talks):
        return None
    messages = Messages(
        text=text,
        ends=_ends(contents),
        roles=np.frombuffer(roles, np.uint8),
        last=_ends(talks),
        lines=np.array(full, np.int64) + first_line,
    )
    return messages if _system_in_place(messages) else None


def read_each(
    lines: Sequence[bytes], first_line: int, path: str, check: Check, reject: Reject | None
) -> tuple[Messages, Counts]:
    """The same, line by line."""
    counts, conversations, numbers = Counts(lines=len(lines)), [], []
    for number, line in enumerate(lines, first_line):
        if not line.strip():
            counts.blank += 1
            continue
        place = f"{path}:{number}"
        try:
            conversation = read_line(line.rstrip(b"\r") if len(line) <= LINE_LIMIT else None, place)
            check.check(conversation)
        except UserError as error:
            reject_line(error, place, reject)
            counts.rejected += 1
            continue
        conversations.append(conversation)
        numbers.append(number)
    return to_columns(conversations, numbers), counts


def to_columns(conversations: Sequence[Conversation], lines: Sequence[int]) -> Messages:
    """Conversations as columns; ``lines`` are their numbers."""
    items = [message for conversation in conversations for message in conversation.messages]
    contents = [message.content.encode() for message in items]
    last = _ends([conversation.messages for conversation in conversations])
    untrained = [
        start + index
        for start, conversation in zip([0, *last.tolist()], conversations, strict=False)
        for index in conversation.untrained
    ]
    return Messages(
        text=b"".join(contents),
        ends=_ends(contents),
        roles=np.array([CODES[message.role] for message in items], np.uint8),
        last=last,
        lines=np.array(lines, np.int64),
        untrained=_marked(untrained, len(items)) if untrained else None,
    )


def _plain_keys(values: list[Any], items: list[Any]) -> bool:
    """True where no key beside the known ones says anything."""
    if sum(map(len, values)) > len(values) and not {"tools", "functions"}.isdisjoint(set().union(*values)):
        return False
    return sum(map(len, items)) == 2 * len(items) or all_plain(set().union(*items))


def _system_in_place(messages: Messages) -> bool:
    """True where each system message is the first of several."""
    firsts = np.concatenate([np.zeros(1, np.int64), messages.last[:-1]])[: len(messages.last)]
    system = messages.roles == _SYSTEM
    leading = system[firsts] if len(firsts) else system
    alone = leading & (messages.last - firsts == 1)
    return int(system.sum()) == int(leading.sum()) and not alone.any()


def _ends(items: Sequence[Any]) -> NDArray[np.int64]:
    return np.cumsum(np.fromiter(map(len, items), np.int64, len(items)))


def _marked(indices: Sequence[int], length: int) -> NDArray[np.bool_]:
    marks = np.zeros(length, np.bool_)
    marks[list(indices)] = True
    return marks
