"""Gemini: `contents` of `role` and `parts`, a `systemInstruction` of parts, and tools.

`functionCall` parts become the tool calls of their message, each `functionResponse` part a message of the
role tool, and `functionDeclarations` tool definitions.
"""

from __future__ import annotations

from typing import Any

from gemfit.data.jsonl.content_text import content_text, json_of_text, json_text
from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.forms.form_line import FormLine, PartNames
from gemfit.data.jsonl.key_rules import EMPTY_VALUES
from gemfit.errors import UserError

SYSTEM = ("systemInstruction", "system_instruction")
KEYS = ("contents", *SYSTEM)
_SHAPE = '{"role": "user", "parts": [{"text": "…"}]}'
_CALLS = ("functionCall", "function_call")
_RESPONSES = ("functionResponse", "function_response")
_DECLARATIONS = ("functionDeclarations", "function_declarations")
_SIGNATURES = ("thoughtSignature", "thought_signature")
"""Opaque bytes next to a part, of no use to another model."""


def from_gemini(value: dict[str, Any], place: str) -> FormLine:
    """Messages of the texts of all parts, joined, and of function calls; other parts are refused."""
    contents = _contents(value["contents"], f"{place}: `contents`")
    messages, names = list[Any](), list[str]()
    for index, item in enumerate(contents):
        found = _messages(item, f"{place}: contents[{index}]")
        messages += found
        names += [f"contents[{index}]"] * len(found)
    system = [_system(value[key], f"{place}: {key}") for key in SYSTEM if value.get(key)]
    if len(system) > 1:
        raise UserError(f"{place}: has {' and '.join(map(repr, SYSTEM))}; remove one of them")
    is_exact = any(isinstance(message, dict) and message.get("role") == "tool" for message in messages)
    return FormLine(
        "gemini",
        messages,
        KEYS,
        PartNames("contents", content="parts", fields=tuple(names)),
        system=system[0] if system else None,
        tools=_definitions(value.get("tools")),
        is_exact=is_exact,
    )


def _contents(value: Any, where: str) -> list[Any]:
    """The list, which tables may hold as JSON in a string."""
    contents = json_of_text(value, where) if isinstance(value, str) else value
    if not isinstance(contents, list):
        raise UserError(f"{where} is {excerpt(contents)}, expected [{_SHAPE}, …]")
    return contents


def _messages(item: Any, where: str) -> list[Any]:
    if not isinstance(item, dict) or "parts" not in item:
        raise UserError(f"{where} is {excerpt(item)} without `parts`; write {_SHAPE}")
    message = {key: value for key, value in item.items() if key != "parts"}
    parts = _parts(item["parts"], f"{where}.parts")
    if results := _values(parts, _RESPONSES):
        if len(results) < len(parts):
            raise UserError(f"{where} has function responses and other parts; write them as two contents")
        return [_result(result, message, f"{where}.parts") for result in results]
    if not (calls := _values(parts, _CALLS)):
        return [{**message, "content": _text(parts, f"{where}.parts")}]
    texts = parts[: len(parts) - len(calls)]
    if _values(texts, _CALLS):
        raise UserError(
            f"{where} has text behind a function call; calls are written below the text: swap them"
        )
    text = _text(texts, f"{where}.parts") if texts else None
    return [{**message, "content": text, "tool_calls": [_call(call, f"{where}.parts") for call in calls]}]


def _system(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    parts = value.get("parts") if isinstance(value, dict) else value
    return _text(_parts(parts, f"{where}.parts"), f"{where}.parts")


def _parts(parts: Any, where: str) -> list[dict[str, Any]]:
    """The parts, without empty values."""
    if not isinstance(parts, list) or not parts:
        raise UserError(f'{where} is {excerpt(parts)}, expected [{{"text": "…"}}, …]')
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise UserError(f'{where}[{index}] is {excerpt(part)}, expected {{"text": "…"}}')
    return [
        {key: value for key, value in part.items() if value not in EMPTY_VALUES and key not in _SIGNATURES}
        | ({"text": part["text"]} if part.get("text") == "" else {})
        for part in parts
    ]


def _values(parts: list[dict[str, Any]], keys: tuple[str, ...]) -> list[Any]:
    """The values of the parts that have nothing but one of these keys."""
    return [value for part in parts if len(part) == 1 for key, value in part.items() if key in keys]


def _text(parts: list[dict[str, Any]], where: str) -> str:
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(parts))


def _part(part: dict[str, Any], where: str) -> str:
    if more := [key for key in part if key != "text"]:
        raise UserError(f"{where} has the key {more[0]!r}; only text can be trained: remove the part")
    return content_text(part.get("text"), f"{where}.text")


def _call(call: Any, where: str) -> dict[str, Any]:
    call = _checked(call, ("name", "args", "id"), "function call", where)
    function = {"name": call.get("name"), "arguments": call.get("args", {})}
    return {"function": function} | ({"id": call["id"]} if "id" in call else {})


def _result(result: Any, message: dict[str, Any], where: str) -> dict[str, Any]:
    result = _checked(result, ("name", "response", "id"), "function response", where)
    response = result.get("response", {})
    text = response if isinstance(response, str) else json_text(response, where)
    more = {"tool_call_id": result["id"]} if "id" in result else {}
    return {**message, "role": "tool", "content": text, **more}


def _checked(value: Any, keys: tuple[str, ...], what: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a {what} is {excerpt(value)}, expected an object with {', '.join(keys)}")
    found = {key: item for key, item in value.items() if item is not None}
    if more := [key for key in found if key not in keys]:
        raise UserError(f"{where}: a {what} has the key {more[0]!r}, expected {', '.join(keys)}; remove it")
    return found


def _definitions(tools: Any) -> Any:
    """Tool definitions with one entry per function; anything else as it is."""
    if not isinstance(tools, list):
        return tools
    found = list[Any]()
    for tool in tools:
        keys = [key for key in _DECLARATIONS if isinstance(tool, dict) and isinstance(tool.get(key), list)]
        if len(keys) == 1 and len(tool) == 1:
            found += [{"type": "function", "function": function} for function in tool[keys[0]]]
        else:
            found.append(tool)
    return found
