"""JSONL parsing of a single line: a conversation, or the reason for its rejection.

A line longer than ``LINE_LIMIT`` bytes is rejected without decoding, so that it cannot exhaust the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from gemfit.data.jsonl.conversation import SHAPE, Conversation, parse_conversation
from gemfit.errors import UserError

LINE_LIMIT = 8 * 2**20
"""Longest line in bytes: some two million tokens, a hundred times the longest of real conversations."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that is not a valid conversation."""

    place: str
    reason: str


def reject_line(error: UserError, place: str, reject: Callable[[Rejection], None] | None) -> None:
    """Pass the error of a line to ``reject``; raise it without one."""
    if reject is None:
        raise error
    reject(Rejection(place, str(error).removeprefix(f"{place}: ")))


def read_line(line: bytes | None, place: str) -> Conversation:
    """The conversation of one line without line break; None for a line above ``LINE_LIMIT``."""
    return parse_conversation(_decoded(line, place), place)


def _decoded(line: bytes | None, place: str) -> object:
    if line is None:
        raise UserError(
            f"{place}: the line is longer than {LINE_LIMIT // 2**20} MiB, the limit for one conversation; "
            "split the conversation, or check that the file has one conversation per line"
        )
    if b"\0" in line:
        raise UserError(f"{place}: holds a NUL byte at byte {line.index(0) + 1}; is this a text file?")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{place}: {_json_error(line, error)}") from None


def _json_error(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as wrong:
        return (
            f"is not UTF-8: byte 0x{line[wrong.start]:02x} at byte {wrong.start + 1}; "
            "convert the file to UTF-8 (iconv -t UTF-8)"
        )
    if "surrogate" in error.msg:
        return (
            "holds half of a surrogate pair (\\ud800 to \\udfff), which is not a valid character; remove it"
        )
    start = text[:30] + ("…" if len(text) > 30 else "")
    return f"is not JSON: {error.msg} at column {error.colno}, in {start!r}; write {SHAPE} on one line"
