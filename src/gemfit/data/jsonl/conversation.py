"""Validated conversations: parsing and validation of one decoded JSONL line.

An invalid line is a ``UserError`` that names the place, the value and the way out. Forms of other tools
become messages before (see ``forms``). Tools and content parts become text here (see ``content_text``), so
later stages see roles and texts only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gemfit.data.jsonl.content_text import (
    call_ids,
    call_names,
    calls_text,
    content_text,
    definitions_text,
    one_call,
)
from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.field_checks import check_keys
from gemfit.data.jsonl.forms.form_line import FormLine, PartNames
from gemfit.data.jsonl.forms.read_form import SHAPE, read_form
from gemfit.data.jsonl.key_rules import EMPTY_VALUES
from gemfit.data.jsonl.line_settings import DEFAULTS, FUNCTION_CALL, ROLES, LineSettings
from gemfit.errors import UserError, did_you_mean

_NO_LINE = FormLine("", None, ())


class Message(NamedTuple):
    """Role and text of one message."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Messages in order; a system message may only be the first."""

    place: str
    """`path:line` of the input."""
    messages: tuple[Message, ...]
    """Empty for a line that its own `weight` or `train` keeps out of the training."""
    untrained: frozenset[int] = frozenset()
    """Indices of the messages that `weight: 0` keeps out of the loss."""
    tools: str = ""
    """The first tool feature in it, for error texts; empty without tools."""
    form: str = ""
    """The form that it was written in; empty for `messages`."""


def parse_conversation(value: object, place: str, settings: LineSettings = DEFAULTS) -> Conversation:
    """Validate one decoded line, in any form."""
    line = read_form(value, place, settings)
    if line is None:
        return Conversation(place, ())
    conversation = parse_messages(line.messages, place, line, settings.roles)
    _check_replies(line, conversation, place)
    return conversation._replace(form=line.form)


def parse_messages(
    value: object,
    place: str,
    line: FormLine = _NO_LINE,
    roles: Mapping[str, str] = DEFAULTS.roles,
) -> Conversation:
    """Validate a list of messages: roles, contents, and the position of the system message.

    ``line`` has the system text and the tools that stand next to it, and names for error texts.
    """
    names = line.names
    if not isinstance(value, list | tuple):
        raise UserError(f"{place}: `{names.messages}` is {excerpt(value)}, expected a list; write {SHAPE}")
    if not value:
        raise UserError(f"{place}: `{names.messages}` is empty; remove the line, or write {SHAPE}")
    messages = [_message(item, index, names, roles, place) for index, item in enumerate(value)]
    _check_system(messages, names, place)
    _check_results(value, roles, names, place)
    untrained = {index for index, item in enumerate(value) if item.get("weight", 1) == 0}
    about = next((name for item in value if (name := _tool_feature(item, roles))), "")
    if line.system not in EMPTY_VALUES:
        text = content_text(line.system, f"{place}: `system`")
        messages, untrained = _with_system(messages, untrained, text, place)
    if line.tools:
        text = definitions_text(line.tools, f"{place}: `tools`")
        messages, untrained = _with_tools(messages, untrained, text)
        about = "tools"
    return Conversation(place, tuple(messages), frozenset(untrained), about)


def _message(value: object, index: int, names: PartNames, roles: Mapping[str, str], place: str) -> Message:
    where = f"{place}: {names.message(index)}"
    text = where if names.fields else f"{where}.{names.content}"
    if not isinstance(value, Mapping):
        raise UserError(f'{where} is {excerpt(value)}; write {{"role": "user", "content": "…"}}')
    name = value.get("role")
    if not isinstance(name, str) or (name not in roles and name != FUNCTION_CALL):
        raise UserError(f"{where}.{names.role} is {excerpt(name)}, expected {_roles_hint(name)}")
    role, calls, content = roles.get(name, "assistant"), value.get("tool_calls"), value.get("content")
    check_keys(value, role, where)
    if name == FUNCTION_CALL:
        if calls:
            raise UserError(f"{where} has calls in its content and as `tool_calls`; remove one of them")
        return Message(role, calls_text(one_call(content, text), text))
    if not calls:
        return Message(role, content_text(content, text))
    if role != "assistant":
        raise UserError(
            f"{where}.tool_calls stands in a message of role {role!r}; only assistants call tools"
        )
    before = "" if content is None else content_text(content, text)
    return Message(role, _append_line(before, calls_text(calls, f"{where}.tool_calls")))


def _roles_hint(name: object) -> str:
    expected = ", ".join(ROLES)
    if not isinstance(name, str) or not name:
        return expected
    return f"{expected}{did_you_mean(name, ROLES)}; or say which in data.roles: {{{name}: …}}"


def _check_system(messages: Sequence[Message], names: PartNames, place: str) -> None:
    for index, message in enumerate(messages):
        if message.role == "system" and index:
            what = "a second system message" if messages[0].role == "system" else "a system message"
            raise UserError(
                f"{place}: {names.message(index)} is {what}; only the first message may be one: "
                "merge it into the first, or give it the role user"
            )
    if messages[-1].role == "system":
        raise UserError(f"{place}: there is only a system message; add user and assistant messages")


def _check_results(
    messages: Sequence[Mapping[str, object]], roles: Mapping[str, str], names: PartNames, place: str
) -> None:
    """Ids are not rendered, so results have to be in the order of their calls."""
    waiting: list[object] = []
    called: list[str] = []
    for index, message in enumerate(messages):
        if calls := message.get("tool_calls"):
            waiting += call_ids(calls)
            called = call_names(calls)
        answered = message.get("tool_call_id")
        if roles.get(str(message["role"])) != "tool":
            continue
        function = called.pop(0) if called else None
        if answered in EMPTY_VALUES:
            if (name := message.get("name")) in called and name != function:
                raise UserError(
                    f"{place}: {names.message(index)}.name is {excerpt(name)}, but the next call that waits "
                    f"for a result is {excerpt(function)}; put results in the order of calls"
                )
            continue
        if not waiting or answered != waiting[0]:
            raise UserError(
                f"{place}: {names.message(index)}.tool_call_id is {excerpt(answered)}, but the next call "
                f"that waits for a result is {excerpt(waiting[0] if waiting else None)}; "
                "put results in the order of calls"
            )
        waiting.pop(0)


def _check_replies(line: FormLine, conversation: Conversation, place: str) -> None:
    """Refuse an empty reply: it would train to end the message at once."""
    before = len(conversation.messages) - len(line.messages)
    for index, (role, content) in enumerate(conversation.messages):
        if role == "assistant" and not content.strip() and index not in conversation.untrained:
            raise UserError(
                f"{place}: {line.names.text(index - before)} is empty, and would train the model to say "
                "nothing; remove the message, or give it `weight` 0"
            )


def _tool_feature(message: Mapping[str, object], roles: Mapping[str, str]) -> str:
    if roles.get(str(message["role"])) == "tool":
        return "the role tool"
    return "tool_calls" if message.get("tool_calls") or message["role"] == FUNCTION_CALL else ""


def _with_system(
    messages: list[Message], untrained: set[int], text: str, place: str
) -> tuple[list[Message], set[int]]:
    """Add the system message that stands next to the others."""
    if messages[0].role != "system":
        return [Message("system", text), *messages], {index + 1 for index in untrained}
    if messages[0].content != text:
        raise UserError(f"{place}: has `system` and a system message; merge them into one")
    return messages, untrained


def _with_tools(messages: list[Message], untrained: set[int], text: str) -> tuple[list[Message], set[int]]:
    """Append the definitions to the system text, or add a system message."""
    if messages[0].role == "system":
        return [Message("system", _append_line(messages[0].content, text)), *messages[1:]], untrained
    return [Message("system", text), *messages], {index + 1 for index in untrained}


def _append_line(text: str, more: str) -> str:
    return f"{text}\n{more}" if text else more
