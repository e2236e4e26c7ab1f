"""Text of a message: content strings, content parts, tool definitions and tool calls.

Text parts are joined without separator. Tools are written as compact JSON: the
definitions after the system text, tool calls after the assistant's text, as
``[{"name": …, "arguments": {…}}, …]``. Ids of calls are omitted: results follow in the order of calls.
Numbers, nulls and the order of keys stay as they were written (see ``exact_json``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.exact_json import RepeatedKey, dump_json, load_json
from gemfit.data.jsonl.key_rules import EMPTY_VALUES, MESSAGE_RULES, find_refusal, is_copy
from gemfit.errors import UserError

CALL = '{"type": "function", "function": {"name": "…", "arguments": {…}}}'
PART = '{"type": "text", "text": "…"}'
_TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of parts that are text; the last two are those of OpenAI's Responses API."""

_CALL_PARTS = ("name", "arguments")
_LOST = ("parameters", "args", "kwargs", "input", "content", "output", "result", "response")
"""Keys of a call that other formats have for its arguments or its result."""


def content_text(value: object, where: str) -> str:
    """A string, or text parts joined."""
    if isinstance(value, list | tuple):
        value = "".join(
            _part(part, f"{where}[{index}]") for index, part in enumerate(_non_empty_list(value, where))
        )
    if not isinstance(value, str):
        raise UserError(f"{where} is {excerpt(value)}, expected text; write a string, or remove the message")
    if "\0" in value:
        raise UserError(f"{where} holds a NUL character at position {value.index(chr(0))}; remove it")
    return value


def calls_text(value: object, where: str) -> str:
    """Tool calls as JSON: names and arguments."""
    calls = [_call(call, f"{where}[{index}]") for index, call in enumerate(_non_empty_list(value, where))]
    return json_text(calls, where)


def call_ids(calls: Any) -> list[object]:
    """The ids of calls that have one; ``calls`` has passed ``calls_text``."""
    return [call["id"] for call in calls if call.get("id") not in EMPTY_VALUES]


def call_names(calls: Any) -> list[str]:
    """The names of the functions; ``calls`` has passed ``calls_text``."""
    return [_function(call)["name"] for call in calls]


def one_call(value: object, where: str) -> object:
    """The calls in the content of ShareGPT's `function_call`: an object or a list, or JSON of it."""
    value = json_of_text(value, where) if isinstance(value, str) else value
    return [value] if isinstance(value, Mapping) else value


def definitions_text(value: object, where: str) -> str:
    """Tool definitions as JSON, unchanged; they may be JSON in a string."""
    value = json_of_text(value, where) if isinstance(value, str) else value
    for index, tool in enumerate(_non_empty_list(value, where)):
        if not isinstance(tool, Mapping) or not _name(_function(tool)):
            raise UserError(f"{where}[{index}] is {excerpt(tool)} without a function's name; write {CALL}")
    return json_text(value, where)


def _part(part: object, where: str) -> str:
    if not isinstance(part, Mapping):
        raise UserError(f"{where} is {excerpt(part)}; write {PART}, or one string as the content")
    kind, text = part.get("type"), part.get("text")
    if kind is None and isinstance(text, str):
        raise UserError(f"{where} has no type; write {PART}")
    if kind not in _TEXT_PARTS:
        raise UserError(
            f"{where} is a part of type {excerpt(kind)}; only text can be trained: remove the part"
        )
    if not isinstance(text, str):
        raise UserError(f"{where}.text is {excerpt(text)}, expected text; write {PART}")
    for key, value in part.items():
        refusal = find_refusal(key, value, MESSAGE_RULES, ())
        if refusal and not (refusal.copies and is_copy(value, text)):
            raise UserError(f"{where} has the key {key!r}; {refusal.reason}")
    return text


def _call(call: object, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping) or call.get("type", "function") != "function":
        raise UserError(f"{where} is {excerpt(call)} and not a function call; write {CALL}")
    function = _function(call)
    _check_call_keys(call, function, where)
    if not _name(function):
        raise UserError(f"{where} has no function name; write {CALL}")
    return {"name": function["name"], "arguments": _arguments(function.get("arguments"), where)}


def _check_call_keys(call: Mapping[str, Any], function: Mapping[str, Any], where: str) -> None:
    """Refuse keys of a call that hold something like arguments or results: they would be lost."""
    lost = [key for keys in (call, function) for key in _LOST if keys.get(key) not in EMPTY_VALUES]
    # Next to the function, a name or arguments are lost where they are not a copy of its own.
    lost += [key for key in _CALL_PARTS if call.get(key) not in (*EMPTY_VALUES, function.get(key))]
    if lost:
        raise UserError(f"{where} has the key {lost[0]!r}, which would be lost; write {CALL}")


def _arguments(value: object, where: str) -> object:
    """The arguments as an object; OpenAI's format has it as JSON in a string."""
    if isinstance(value, str):
        value = json_of_text(value or "{}", f"{where}: its arguments")
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: its arguments are {excerpt(value)}, expected an object; write {CALL}")
    return value


def json_of_text(text: str, where: str) -> object:
    """The value of JSON in a string."""
    try:
        return load_json(text.encode())
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:
            reason = "more than a thousand levels of lists and objects; remove what is so deep"
            raise UserError(f"{where}: {reason}") from None
        raise UserError(f"{where}: {excerpt(text)} is not JSON: {error}; write it as JSON") from None
    except RepeatedKey as key:
        raise UserError(f"{where}: the key {key} stands twice in one object; remove one") from None


def json_text(value: object, where: str) -> str:
    """A decoded value as compact JSON."""
    try:
        return dump_json(value)
    except ValueError as error:
        way_out = "remove what is nested so deeply" if "ecursion" in str(error) else "write other values"
        raise UserError(f"{where} cannot be written as JSON: {error}; {way_out}") from None


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part with name and arguments: inside `function`, or the call itself."""
    function = call.get("function", call)
    return function if isinstance(function, Mapping) else {}


def _name(function: Mapping[str, Any]) -> bool:
    return isinstance(function.get("name"), str) and bool(function["name"])


def _non_empty_list(value: object, where: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} is {excerpt(value)}, expected a list")
    if not value:
        raise UserError(f"{where} is an empty list; write a string, or remove the message")
    return value
