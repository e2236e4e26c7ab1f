"""One conversation, checked: the only form in which data enters the pipeline.

Whatever is wrong with a line is a ``UserError`` that names the place, the value and the way out.
Tools and parts are written out as text here (see ``contents``), so that all that follows sees roles and
texts. ``developer`` as the role of the first message is another word for ``system``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gemfit.data.jsonl.content_text import call_ids, calls_text, content_text, definitions_text
from gemfit.data.jsonl.error_values import shown
from gemfit.data.jsonl.field_checks import check_keys
from gemfit.errors import UserError, did_you_mean

ROLES = ("system", "user", "assistant", "tool")
ALIASES = {"developer": "system"}
"""Other names of roles."""
SHAPE = '{"messages": [{"role": "user", "content": "…"}, …]}'


class Message(NamedTuple):
    """One turn."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Messages in order; at most one system message, and that one first."""

    place: str
    """Where it was read, as `path:line`."""
    messages: tuple[Message, ...]
    untrained: frozenset[int] = frozenset()
    """Indices of the messages that `weight: 0` keeps out of the loss."""
    tools: str = ""
    """The first thing in it that is about tools, as a person calls it; empty without."""


def parse_conversation(value: object, place: str) -> Conversation:
    """Check one decoded line; keys beside ``messages`` and ``tools`` are ignored."""
    if not isinstance(value, Mapping):
        raise UserError(f"{place}: expected a JSON object, found {shown(value)}; write {SHAPE}")
    if "messages" not in value:
        if isinstance(value.get("conversations"), list):
            raise UserError(
                f"{place}: is in the ShareGPT form (`conversations`); convert the file: "
                f"jq -c {shlex.quote(SHAREGPT_TO_MESSAGES)} FILE > converted.jsonl"
            )
        keys = ", ".join(map(repr, list(value)[:5])) or "no key"
        raise UserError(f"{place}: there is no `messages`, only {keys}; write {SHAPE}")
    if value.get("functions"):
        raise UserError(
            f'{place}: `functions` is an old form; write "tools": [{{"type": "function", "function": …}}, …]'
        )
    return parse_messages(value["messages"], place, value.get("tools"))


def parse_messages(value: object, place: str, tools: object = None) -> Conversation:
    """Check a list of messages: roles, contents, and the place of the system message."""
    if not isinstance(value, list | tuple):
        raise UserError(f"{place}: `messages` is {shown(value)}, expected a list; write {SHAPE}")
    if not value:
        raise UserError(f"{place}: `messages` is empty; remove the line, or write {SHAPE}")
    messages = [_message(item, f"{place}: messages[{index}]") for index, item in enumerate(value)]
    _check_system(messages, place)
    _check_results(value, place)
    untrained = {index for index, item in enumerate(value) if item.get("weight", 1) == 0}
    about = next((name for item in value if (name := _about_tools(item))), "")
    if tools:
        messages, untrained = _with_tools(messages, untrained, definitions_text(tools, f"{place}: `tools`"))
        about = "tools"
    return Conversation(place, tuple(messages), frozenset(untrained), about)


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise UserError(f'{where} is {shown(value)}; write {{"role": "user", "content": "…"}}')
    role = value.get("role")
    if not isinstance(role, str) or role not in (*ROLES, *ALIASES):
        hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise UserError(f"{where}.role is {shown(role)}, expected {', '.join(ROLES)}{hint}")
    check_keys(value, role, where)
    calls, content = value.get("tool_calls"), value.get("content")
    if not calls:
        return Message(ALIASES.get(role, role), content_text(content, f"{where}.content"))
    if role != "assistant":
        raise UserError(
            f"{where}.tool_calls stands in a message of role {role!r}; only assistants call tools"
        )
    text = "" if content is None else content_text(content, f"{where}.content")
    return Message(role, _below(text, calls_text(calls, f"{where}.tool_calls")))


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
    """Ids are not written out, so results have to stand in the order of their calls."""
    waiting: list[object] = []
    for index, message in enumerate(messages):
        waiting += call_ids(message.get("tool_calls"))
        answered = message.get("tool_call_id")
        if answered is None or message["role"] != "tool":
            continue
        if not waiting or answered != waiting[0]:
            raise UserError(
                f"{place}: messages[{index}].tool_call_id is {shown(answered)}, but the next call that waits "
                f"for a result is {shown(waiting[0] if waiting else None)}; put results in the order of calls"
            )
        waiting.pop(0)


def _about_tools(message: Mapping[str, object]) -> str:
    if message["role"] == "tool":
        return "the role tool"
    return "tool_calls" if message.get("tool_calls") else ""


def _with_tools(messages: list[Message], untrained: set[int], text: str) -> tuple[list[Message], set[int]]:
    """The definitions below the system text; a system message of their own where there is none."""
    if messages[0].role == "system":
        return [Message("system", _below(messages[0].content, text)), *messages[1:]], untrained
    return [Message("system", text), *messages], {index + 1 for index in untrained}


def _below(text: str, more: str) -> str:
    return f"{text}\n{more}" if text else more


SHAREGPT_TO_MESSAGES = (
    '{messages: ([select(.system) | {role: "system", content: .system}] + [.conversations[] | '
    '{role: ({human: "user", gpt: "assistant"}[.from] // .from), content: .value}])}'
)
"""A jq filter; other roles keep their names."""
