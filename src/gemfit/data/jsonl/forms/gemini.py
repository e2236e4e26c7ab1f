"""Gemini: `contents` of `role` and `parts`, and a `systemInstruction` of parts."""

from __future__ import annotations

from typing import Any

from gemfit.data.jsonl.content_text import content_text
from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.forms.form_line import FormLine, PartNames
from gemfit.data.jsonl.key_rules import EMPTY_VALUES
from gemfit.errors import UserError

SYSTEM = ("systemInstruction", "system_instruction")
KEYS = ("contents", *SYSTEM)
_SHAPE = '{"role": "user", "parts": [{"text": "…"}]}'
_NAMES = PartNames("contents", "role", "parts")


def from_gemini(value: dict[str, Any], place: str) -> FormLine:
    """Messages of the texts of all parts, joined; parts that are no text are refused."""
    contents = value["contents"]
    messages = contents
    if isinstance(contents, list):
        messages = [_message(item, f"{place}: contents[{index}]") for index, item in enumerate(contents)]
    system = [_system(value[key], f"{place}: {key}") for key in SYSTEM if value.get(key)]
    if len(system) > 1:
        raise UserError(f"{place}: has {' and '.join(map(repr, SYSTEM))}; remove one of them")
    return FormLine("gemini", messages, KEYS, _NAMES, system=system[0] if system else None)


def _message(item: Any, where: str) -> Any:
    if not isinstance(item, dict) or "parts" not in item:
        raise UserError(f"{where} is {excerpt(item)} without `parts`; write {_SHAPE}")
    more = {key: value for key, value in item.items() if key != "parts"}
    return {**more, "content": _text(item["parts"], f"{where}.parts")}


def _system(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    return _text(value.get("parts") if isinstance(value, dict) else value, f"{where}.parts")


def _text(parts: Any, where: str) -> str:
    if not isinstance(parts, list) or not parts:
        raise UserError(f'{where} is {excerpt(parts)}, expected [{{"text": "…"}}, …]')
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(parts))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise UserError(f'{where} is {excerpt(part)}, expected {{"text": "…"}}')
    found = {key: value for key, value in part.items() if value not in EMPTY_VALUES}
    if more := [key for key in found if key != "text"]:
        raise UserError(f"{where} has the key {more[0]!r}; only text can be trained: remove the part")
    return content_text(part.get("text"), f"{where}.text")
