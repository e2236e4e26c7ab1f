"""JSONL parsing of a block into validated columns of messages.

Two paths give the same result. The batch path decodes groups of lines together and validates columns, with
no Python loop over messages. The line path goes through ``conversation``, which reports errors and reads
what columns cannot hold (tools, content parts); a group with anything unusual falls back to it.

Memory: the block twice, and its text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gemfit.data.jsonl.block_counts import BlockCounts
from gemfit.data.jsonl.blocks import BOM
from gemfit.data.jsonl.line_group import CODES
from gemfit.data.jsonl.line_parser import Rejection
from gemfit.data.jsonl.line_settings import DEFAULTS, LineSettings
from gemfit.data.jsonl.message_batch import Messages
from gemfit.data.jsonl.message_columns import ConversationCheck, MessageColumns, Reject

_SYSTEM = CODES["system"]
GROUP_BYTES = 2**16
"""Bytes of lines that are decoded together."""


def read_block(
    block: bytes,
    first_line: int,
    path: str,
    check: ConversationCheck,
    reject: Reject | None,
    settings: LineSettings = DEFAULTS,
) -> tuple[Messages, BlockCounts]:
    """The valid conversations of whole lines, and counts; invalid lines go to ``reject``.

    ``first_line`` is the number of the first line, from 1; only line 1 may begin with a byte order mark. A
    line longer than ``settings.max_bytes`` is rejected, so it may come truncated after one byte too many.
    Without ``reject`` the first invalid line is a ``UserError``.
    """
    if first_line == 1:
        block = block.removeprefix(BOM)
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found: list[Rejection] = []
    messages, counts = parse_batch(lines, first_line, path, check, found.append, settings)
    if messages is None or (found and not reject):
        return parse_lines(lines, first_line, path, check, reject, settings)
    if reject:
        for rejection in found:
            reject(rejection)
    return messages, counts


def parse_batch(
    lines: Sequence[bytes],
    first_line: int,
    path: str,
    check: ConversationCheck,
    reject: Reject,
    settings: LineSettings = DEFAULTS,
) -> tuple[Messages | None, BlockCounts]:
    """The batch path, with single groups on the line path; None if all lines have to take the line path."""
    columns, counts = MessageColumns(settings), BlockCounts()
    step = max(1, GROUP_BYTES * len(lines) // (1 + sum(map(len, lines))))
    for start in range(0, len(lines), step):
        group = lines[start : start + step]
        added = columns.add_batch(group, first_line + start)
        counts += added or columns.add_lines(group, first_line + start, path, check, reject)
    messages = columns.messages()
    valid = b"\0" not in messages.text and _system_in_place(messages) and check.passes(messages)
    return messages if valid else None, counts


def parse_lines(
    lines: Sequence[bytes],
    first_line: int,
    path: str,
    check: ConversationCheck,
    reject: Reject | None,
    settings: LineSettings = DEFAULTS,
) -> tuple[Messages, BlockCounts]:
    """The line path."""
    columns = MessageColumns(settings)
    counts = columns.add_lines(lines, first_line, path, check, reject)
    return columns.messages(), counts


def _system_in_place(messages: Messages) -> bool:
    """Whether every system message is the first of at least two messages."""
    firsts = np.concatenate([np.zeros(1, np.int64), messages.last[:-1]])[: len(messages.last)]
    system = messages.roles == _SYSTEM
    leading = system[firsts] if len(firsts) else system
    alone = leading & (messages.last - firsts == 1)
    return int(system.sum()) == int(leading.sum()) and not alone.any()
