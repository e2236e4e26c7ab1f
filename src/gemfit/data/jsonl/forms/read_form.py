"""The form of a decoded line, its messages, and a check of the keys next to them."""

from __future__ import annotations

from typing import Any

from gemfit.data.jsonl.content_text import json_of_text
from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.forms import gemini, instructions, sharegpt
from gemfit.data.jsonl.forms.form_line import CONTROL_KEYS, FormLine
from gemfit.data.jsonl.key_rules import (
    EMPTY_VALUES,
    LINE_KEYS,
    LINE_RULES,
    find_refusal,
    is_copy,
    is_suspicious,
    joined_texts,
)
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.errors import UserError

_NO_TOOLS = ("", "[]", "{}", "null")
"""Tools that a table of strings holds where a conversation has none."""
SHAPE = '{"messages": [{"role": "user", "content": "…"}, …]}'
_FORM_NAMES = frozenset(["messages", *sharegpt.LISTS, "instruction", "contents", "prompt"])
_EXPECTED = {
    **dict.fromkeys(sharegpt.LISTS, "a list of messages"),
    "contents": "a list of contents",
    **dict.fromkeys(("prompt", "completion"), "text or a list of messages"),
    **dict.fromkeys(("instruction", "output"), "text"),
}
"""What the keys of a form hold."""
_FORM_KEYS = (*sharegpt.LISTS, *instructions.ALPACA, *instructions.COMPLETION, *gemini.KEYS)


def read_form(value: Any, place: str, settings: LineSettings) -> FormLine | None:
    """A decoded line as messages, in whatever form it is; None if its weight keeps it out of the training."""
    if isinstance(value, list):
        return _bare_list(value, place)
    if not isinstance(value, dict):
        raise UserError(f"{place}: expected a JSON object, found {excerpt(value)}; write {SHAPE}")
    if settings.columns or settings.ignored:
        value = _renamed(value, place, settings)
    if not _is_trained(value, place):
        return None
    line = _form_of(value, place, settings)
    if isinstance(line.messages, str):
        line = _decoded_messages(line, place)
    _check_keys(value, line, place)
    tools = value.get("tools") if line.tools is None else line.tools
    if isinstance(tools, str) and "".join(tools.split()) in _NO_TOOLS:
        tools = None
    return line._replace(system=_system(value, line, place), tools=tools)


def only_messages(names: set[str]) -> bool:
    """Whether lines with these keys need no look at anything but `messages`."""
    return not any(
        name in CONTROL_KEYS or is_suspicious(name, LINE_RULES, LINE_KEYS) for name in names - {"messages"}
    )


def _form_of(value: dict[str, Any], place: str, settings: LineSettings) -> FormLine:
    if value.get("messages") is not None:
        return sharegpt.from_list(value["messages"], "messages", "")
    for name in sharegpt.LISTS:
        if isinstance(value.get(name), list | str):
            return sharegpt.from_list(value[name], name, "sharegpt")
    if isinstance(value.get("contents"), list | str):
        return gemini.from_gemini(value, place)
    if value.get("prompt") is not None and value.get("completion") is not None:
        return instructions.from_completion(value, place, settings.roles)
    if isinstance(value.get("instruction"), str) and "output" in value:
        return instructions.from_alpaca(value, place)
    if "messages" in value:
        return FormLine("", None, ("messages",))
    raise UserError(_unknown_form(value, place))


def _unknown_form(value: dict[str, Any], place: str) -> str:
    whole = next((key for key, item in value.items() if _is_list_of_lines(item)), None)
    if whole is not None:
        return (
            f"{place}: is one object with {len(value[whole])} conversations under {whole!r}; write one "
            f"conversation per line: jq -c '.[\"{whole}\"][]' FILE > converted.jsonl"
        )
    for key, item in value.items():
        refusal = None if key in _FORM_KEYS else find_refusal(key, item, LINE_RULES, ())
        if refusal and not refusal.copies:
            return f"{place}: has the key {key!r}; {refusal.reason}"
    if (wrong := _wrong_key(value)) is not None:
        return f"{place}: `{wrong}` is {excerpt(value[wrong])}, expected {_EXPECTED[wrong]}"
    keys = ", ".join(map(repr, list(value)[:5])) or "no key"
    return (
        f"{place}: there is no `messages`, only {keys}; write {SHAPE}, or name the keys of the data as in "
        "data.columns: {prompt: question, completion: answer}"
    )


def _wrong_key(value: dict[str, Any]) -> str | None:
    """The key of a form that has all its keys, and a value that is none of that form."""
    pairs = (instructions.COMPLETION, ("instruction", "output"))
    for pair in pairs:
        if all(key in value for key in pair):
            return next((key for key in pair if not isinstance(value[key], str)), None)
    return next((key for key in _EXPECTED if key in value and key not in pairs[0] + pairs[1]), None)


def _is_list_of_lines(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and bool(_FORM_NAMES.intersection(value[0]))
    )


def _bare_list(value: list[Any], place: str) -> FormLine:
    first = value[0] if value else None
    if isinstance(first, dict) and ("role" in first or "from" in first):
        return sharegpt.from_list(value, "line", "list")
    if isinstance(first, dict):
        raise UserError(
            f"{place}: is a list of {len(value)} objects; write one conversation per line: "
            "jq -c '.[]' FILE > converted.jsonl"
        )
    raise UserError(f"{place}: expected a JSON object, found {excerpt(value)}; write {SHAPE}")


def _decoded_messages(line: FormLine, place: str) -> FormLine:
    """Messages that are JSON in a string, as CSV exports have them."""
    key = line.names.messages
    messages = json_of_text(line.messages, f"{place}: `{key}`")
    if isinstance(messages, str):
        raise UserError(f"{place}: `{key}` is {excerpt(messages)}, expected a list; write {SHAPE}")
    return sharegpt.from_list(messages, key, line.form or "json_string")


def _renamed(value: dict[str, Any], place: str, settings: LineSettings) -> dict[str, Any]:
    """The line with the keys that ``data.columns`` names, without those of ``data.ignore_columns``.

    A line has all keys that are named, or none if they hold its content: a slip in the recipe would otherwise
    be a column that is never found.
    """
    kept = {key: item for key, item in value.items() if key not in settings.ignored}
    named = [name for name in settings.columns if name in kept]
    missing = [name for name in settings.columns if name not in kept]
    if missing and (named or set(settings.columns.values()) <= set(CONTROL_KEYS)):
        raise UserError(
            f"{place}: there is no {missing[0]!r}, which data.columns reads as "
            f"`{settings.columns[missing[0]]}`; write null where it is empty"
        )
    renamed = {settings.columns.get(key, key): item for key, item in kept.items()}
    if len(renamed) < len(kept):
        twice = next(name for name in named if settings.columns[name] in kept)
        raise UserError(
            f"{place}: has {twice!r} and {settings.columns[twice]!r}, which are the same by data.columns; "
            "list one of them in data.ignore_columns"
        )
    return renamed


def _is_trained(value: dict[str, Any], place: str) -> bool:
    trained = True
    for key in ("weight", "train"):
        weight = value.get(key)
        if weight is None or (isinstance(weight, list | dict) and not _FORM_NAMES.intersection(value)):
            continue  # without a form, `train` is a split of the whole data
        if not isinstance(weight, int | float) or weight not in (0, 1):
            raise UserError(
                f"{place}: {key} is {excerpt(weight)}, expected 0 (not trained) or 1; "
                "shares are a matter of data.sources and their weight"
            )
        trained = trained and bool(weight)
    return trained


def _system(value: dict[str, Any], line: FormLine, place: str) -> object:
    system = value.get("system")
    if system in EMPTY_VALUES:
        return line.system
    if line.system not in EMPTY_VALUES:
        raise UserError(
            f"{place}: has `system` and a system text in its {line.names.messages}; remove one of them"
        )
    return system


def _check_keys(value: dict[str, Any], line: FormLine, place: str) -> None:
    """Refuse a key that would change what is trained, if it were not ignored."""
    texts: str | None = None
    for key, item in value.items():
        if key in line.keys or key in CONTROL_KEYS:
            continue
        refusal = find_refusal(key, item, LINE_RULES, LINE_KEYS)
        if refusal is None:
            continue
        if refusal.copies:
            texts = joined_texts([line.messages, value.get("system")]) if texts is None else texts
            if is_copy(item, texts):
                continue
        stands = f"{place}: has the key {key!r} next to {_name(line)}"
        raise UserError(f"{stands}; {refusal.reason}, or list it in data.ignore_columns")


def _name(line: FormLine) -> str:
    return f"`{line.keys[0]}`" if line.keys else "its messages"
