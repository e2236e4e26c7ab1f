"""Forms of one question and one answer: Alpaca, and prompt with completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemfit.data.jsonl.content_text import content_text, json_of_text
from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.forms.form_line import FormLine, PartNames
from gemfit.errors import UserError

ALPACA = ("instruction", "input", "output", "history")
COMPLETION = ("prompt", "completion")
_PAIR = 2


def from_alpaca(value: dict[str, Any], place: str) -> FormLine:
    """`instruction` with `input` below it, and `output`; `history` holds earlier questions and answers."""
    names, texts = _history(value.get("history"), place)
    question = content_text(value["instruction"], f"{place}: `instruction`")
    if more := value.get("input"):
        more = content_text(more, f"{place}: `input`")
        question = f"{question}\n{more}" if question else more
    names += ["instruction", "output"]
    texts += [question, content_text(value["output"], f"{place}: `output`")]
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return FormLine("alpaca", messages, ALPACA, PartNames(fields=tuple(names)))


def from_completion(value: dict[str, Any], place: str, roles: Mapping[str, str]) -> FormLine:
    """`prompt` and `completion`, each a text or a list of messages; replies in the prompt are not trained."""
    names, messages = _side(value["prompt"], "prompt", "user", place)
    more_names, completion = _side(value["completion"], "completion", "assistant", place)
    for message in messages:
        if isinstance(message, dict) and roles.get(str(message.get("role"))) == "assistant":
            message.setdefault("weight", 0)
    fields = PartNames(fields=(*names, *more_names))
    return FormLine("prompt_completion", messages + completion, COMPLETION, fields)


def _side(value: Any, key: str, role: str, place: str) -> tuple[list[str], list[Any]]:
    if isinstance(value, str):
        return [key], [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: `{key}` is {excerpt(value)}, expected text or a list of messages")
    messages = [dict(item) if isinstance(item, dict) else item for item in value]
    return [f"{key}[{index}]" for index in range(len(messages))], messages


def _history(value: Any, place: str) -> tuple[list[str], list[str]]:
    names, texts = list[str](), list[str]()
    pairs = json_of_text(value, f"{place}: `history`") if isinstance(value, str) and value else value or []
    if not isinstance(pairs, list):
        raise UserError(f"{place}: `history` is {excerpt(pairs)}, expected a list of questions and answers")
    for index, pair in enumerate(pairs):
        name = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != _PAIR:
            raise UserError(f"{place}: `{name}` is {excerpt(pair)}, expected a pair of question and answer")
        for side, text in enumerate(pair):
            names.append(f"{name}[{side}]")
            texts.append(content_text(text, f"{place}: `{name}[{side}]`"))
    return names, texts
