"""Validated conversations: parsing and validation of one decoded JSONL line.

An invalid line is a ``UserError`` that names the place, the value and the way out. Tools and content parts
become text here (see ``content_text``), so later stages see roles and texts only. The role ``developer`` is
an alias of ``system``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gemfit.data.jsonl.content_text import call_ids, calls_text, content_text, definitions_text
from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.field_checks import check_keys
from gemfit.errors import UserError, did_you_mean

ROLES = ("system", "user", "assistant", "tool")
ALIASES = {"developer": "system"}
"""Aliases of roles."""
SHAPE = '{"messages": [{"role": "user", "content": "…"}, …]}'


class Message(NamedTuple):
    """Role and text of one message."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Messages in order; a system message may only be the first."""

    place: str
    """`path:line` of the input."""
    messages: tuple[Message, ...]
    untrained: frozenset[int] = frozenset()
    """Indices of the messages that `weight: 0` keeps out of the loss."""
    tools: str = ""
    """The first tool feature in it, for error texts; empty without tools."""


def parse_conversation(value: object, place: str) -> Conversation:
    """Validate one decoded line; keys other than ``messages`` and ``tools`` are ignored."""
    if not isinstance(value, Mapping):
        raise UserError(f"{place}: expected a JSON object, found {excerpt(value)}; write {SHAPE}")
    if "messages" not in value:
        if isinstance(value.get("conversations"), list):
            raise UserError(
                f"{place}: is in the ShareGPT format (`conversations`); convert the file: "
                f"jq -c {shlex.quote(SHAREGPT_TO_MESSAGES)} FILE > converted.jsonl"
            )
        keys = ", ".join(map(repr, list(value)[:5])) or "no key"
        raise UserError(f"{place}: there is no `messages`, only {keys}; write {SHAPE}")
    if value.get("functions"):
        raise UserError(
            f"{place}: `functions` is an old format; write "
            '"tools": [{"type": "function", "function": …}, …]'
        )
    return parse_messages(value["messages"], place, value.get("tools"))


def parse_messages(value: object, place: str, tools: object = None) -> Conversation:
    """Validate a list of messages: roles, contents, and the position of the system message."""
    if not isinstance(value, list | tuple):
        raise UserError(f"{place}: `messages` is {excerpt(value)}, expected a list; write {SHAPE}")
    if not value:
        raise UserError(f"{place}: `messages` is empty; remove the line, or write {SHAPE}")
    messages = [_message(item, f"{place}: messages[{index}]") for index, item in enumerate(value)]
    _check_system(messages, place)
    _check_results(value, place)
    untrained = {index for index, item in enumerate(value) if item.get("weight", 1) == 0}
    about = next((name for item in value if (name := _tool_feature(item))), "")
    if tools:
        messages, untrained = _with_tools(messages, untrained, definitions_text(tools, f"{place}: `tools`"))
        about = "tools"
    return Conversation(place, tuple(messages), frozenset(untrained), about)


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise UserError(f'{where} is {excerpt(value)}; write {{"role": "user", "content": "…"}}')
    role = value.get("role")
    if not isinstance(role, str) or role not in (*ROLES, *ALIASES):
        hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise UserError(f"{where}.role is {excerpt(role)}, expected {', '.join(ROLES)}{hint}")
    check_keys(value, role, where)
    calls, content = value.get("tool_calls"), value.get("content")
    if not calls:
        return Message(ALIASES.get(role, role), content_text(content, f"{where}.content"))
    if role != "assistant":
        raise UserError(f"{where}.tool_calls is in a message of role {role!r}; only assistants call tools")
    text = "" if content is None else content_text(content, f"{where}.content")
    return Message(role, _append_line(text, calls_text(calls, f"{where}.tool_calls")))


def _check_system(messages: Sequence[Message], place: str) -> None:
    for index, message in enumerate(messages):
        if message.role == "system" and index:
            what = "a second system message" if messages[0].role == "system" else "a system message"
            raise UserError(
                f"{place}: messages[{index}] is {what}; only the first message may be one: "
                "merge it into the first, or give it the role user"
            )
    if messages[-1].role == "system":
        raise UserError(f"{place}: there is only a system message; add user and assistant messages")


def _check_results(messages: Sequence[Mapping[str, object]], place: str) -> None:
    """Ids are not rendered, so results have to be in the order of their calls."""
    waiting: list[object] = []
    for index, message in enumerate(messages):
        waiting += call_ids(message.get("tool_calls"))
        answered = message.get("tool_call_id")
        if answered is None or message["role"] != "tool":
            continue
        if not waiting or answered != waiting[0]:
            raise UserError(
                f"{place}: messages[{index}].tool_call_id is {excerpt(answered)}, but the next call that "
                f"waits for a result is {excerpt(waiting[0] if waiting else None)}; "
                "put results in the order of calls"
            )
        waiting.pop(0)


def _tool_feature(message: Mapping[str, object]) -> str:
    if message["role"] == "tool":
        return "the role tool"
    return "tool_calls" if message.get("tool_calls") else ""


def _with_tools(messages: list[Message], untrained: set[int], text: str) -> tuple[list[Message], set[int]]:
    """Append the definitions to the system text, or add a system message."""
    if messages[0].role == "system":
        return [Message("system", _append_line(messages[0].content, text)), *messages[1:]], untrained
    return [Message("system", text), *messages], {index + 1 for index in untrained}


def _append_line(text: str, more: str) -> str:
    return f"{text}\n{more}" if text else more


SHAREGPT_TO_MESSAGES = (
    '{messages: ([select(.system) | {role: "system", content: .system}] + [.conversations[] | '
    '{role: ({human: "user", gpt: "assistant"}[.from] // .from), content: .value}])}'
)
"""A jq filter; other roles keep their names."""
