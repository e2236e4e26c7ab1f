"""Decode and validate a group of lines together, with no Python loop over messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

import orjson

from gemfit.data.jsonl.field_checks import plain_messages, zero_weight_messages
from gemfit.data.jsonl.forms.read_batch import BatchLines, read_batch
from gemfit.data.jsonl.line_settings import ROLES, LineSettings
from gemfit.data.jsonl.repeated_keys import may_repeat_keys

CODES = {role: code for code, role in enumerate(ROLES)}


class LineGroup(NamedTuple):
    """The messages of a group of lines."""

    batch: BatchLines
    contents: list[bytes]
    roles: bytes
    """Index into ``ROLES`` of each message."""
    untrained: list[int]
    """Indices of messages."""


def read_group(lines: Sequence[bytes], settings: LineSettings) -> LineGroup | None:
    """The valid messages of lines that are not blank; None if one of them is unusual or invalid."""
    codes = {name: CODES[role] for name, role in settings.roles.items() if role != "tool"}
    try:
        values = list(map(orjson.loads, lines))
        batch = read_batch(values, settings)
        if batch is None or not all(batch.message_lists):
            return None
        items = list(chain.from_iterable(batch.message_lists))
        roles = bytes(map(codes.__getitem__, map(itemgetter("role"), items)))
        texts = list(map(itemgetter("content"), items))
        contents = list(map(str.encode, texts))
        untrained = zero_weight_messages(items)
        valid = plain_messages(items, settings.assistants) and not (
            _has_empty_reply(texts, roles, untrained) or may_repeat_keys(lines, values, items)
        )
    except (orjson.JSONDecodeError, LookupError, TypeError, RecursionError):
        return None
    return LineGroup(batch, contents, roles, untrained) if valid else None


def _has_empty_reply(texts: Sequence[str], roles: bytes, untrained: Sequence[int]) -> bool:
    """Whether a message that trains an assistant has no text."""
    if all(texts) and not any(map(str.isspace, texts)):
        return False
    without = set(untrained)
    return any(
        role == CODES["assistant"] and not text.strip() and index not in without
        for index, (role, text) in enumerate(zip(roles, texts, strict=True))
    )
