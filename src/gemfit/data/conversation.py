"""One conversation, checked: the only form in which data enters the pipeline.

Whatever is wrong with a line is a ``UserError`` that names the place, the value and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import xxhash

from gemfit.errors import UserError, did_you_mean

ROLES = ("system", "user", "assistant")
SHAPE = '{"messages": [{"role": "user", "content": "…"}, …]}'
_NOT_A_WORD = re.compile(r"[\W_]+")


class Message(NamedTuple):
    """One turn."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Messages in order; at most one system message, and that one first."""

    place: str
    """Where it was read, as `path:line`."""
    messages: tuple[Message, ...]

    @property
    def content_digest(self) -> bytes:
        """Equal for exact copies only (XXH3-128 of roles and contents)."""
        return _digest(self.messages)

    @property
    def likeness_digest(self) -> bytes:
        """Equal also for copies that differ in case, spacing or punctuation."""
        return _digest(
            [(role, _NOT_A_WORD.sub(" ", text).strip().casefold()) for role, text in self.messages]
        )


def parse_conversation(value: object, place: str) -> Conversation:
    """Check one decoded line; extra keys beside ``messages`` are ignored."""
    if not isinstance(value, Mapping):
        raise UserError(f"{place}: expected a JSON object, found {_shown(value)}; write {SHAPE}")
    if "messages" not in value:
        keys = ", ".join(map(repr, list(value)[:5])) or "no key"
        raise UserError(f"{place}: there is no `messages`, only {keys}; write {SHAPE}")
    return Conversation(place, parse_messages(value["messages"], place))


def parse_messages(value: object, place: str) -> tuple[Message, ...]:
    """Check a list of messages: roles, contents, and the place of the system message."""
    if not isinstance(value, list | tuple):
        raise UserError(f"{place}: `messages` is {_shown(value)}, expected a list; write {SHAPE}")
    if not value:
        raise UserError(f"{place}: `messages` is empty; remove the line, or write {SHAPE}")
    messages = tuple(_message(item, f"{place}: messages[{index}]") for index, item in enumerate(value))
    for index, message in enumerate(messages):
        if message.role == "system" and index:
            what = "a second system message" if messages[0].role == "system" else "a system message"
            raise UserError(
                f"{place}: messages[{index}] is {what}; only the first message may be one: "
                "merge it into the first, or give it the role user"
            )
    if messages[-1].role == "system":
        raise UserError(f"{place}: there is only a system message; add user and assistant messages")
    return messages


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise UserError(f'{where} is {_shown(value)}; write {{"role": "user", "content": "…"}}')
    role = value.get("role")
    if role == "tool":
        raise UserError(f"{where}.role is 'tool'; tool messages cannot be trained yet: remove them")
    if role not in ROLES:
        hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise UserError(f"{where}.role is {_shown(role)}, expected {', '.join(ROLES)}{hint}")
    return Message(str(role), _content(value.get("content"), f"{where}.content"))


def _content(value: object, where: str) -> str:
    if isinstance(value, list):
        raise UserError(f"{where} is a list of parts; join the parts' text into one string")
    if not isinstance(value, str):
        raise UserError(f"{where} is {_shown(value)}, expected text; write a string, or remove the message")
    if "\0" in value:
        raise UserError(f"{where} holds a NUL character at position {value.index(chr(0))}; remove it")
    return value


def _shown(value: Any) -> str:
    """A value for a message: JSON's word for its kind, and a little of it."""
    if value is None:
        return "null or missing"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…" + text[0]


def _digest(messages: Any) -> bytes:
    state = xxhash.xxh3_128()
    for role, text in messages:
        data = text.encode()
        # The length keeps ("ab", "c") apart from ("a", "bc").
        state.update(f"{role}:{len(data)}:".encode())
        state.update(data)
    return bytes(state.digest())
