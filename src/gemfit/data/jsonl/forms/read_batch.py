"""The messages of many decoded lines, for the batch path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from gemfit.data.jsonl.forms.form_line import FormLine
from gemfit.data.jsonl.forms.read_form import only_messages, read_form
from gemfit.data.jsonl.key_rules import EMPTY_VALUES
from gemfit.data.jsonl.line_settings import LineSettings
from gemfit.errors import UserError


class BatchLines(NamedTuple):
    """The trained lines of a group."""

    message_lists: list[Any]
    """The messages of each, not validated."""
    numbers: Sequence[int]
    """Index of each among the lines of the group."""
    forms: Counter[str]
    """Lines by form, without `messages`."""


def read_batch(values: Sequence[Any], settings: LineSettings) -> BatchLines | None:
    """The messages of decoded lines; None if one of them has to be read alone."""
    if not settings.columns and not settings.ignored and all(map(_is_object, values)):
        names = set[str]().union(*values)
        if "messages" in names and only_messages(names):
            lists = list(map(itemgetter("messages"), values))
            if not any(isinstance(messages, str) or "from" in messages[0] for messages in lists):
                return BatchLines(lists, range(len(values)), Counter())
    return _read_each(values, settings)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _read_each(values: Sequence[Any], settings: LineSettings) -> BatchLines | None:
    lists, numbers, forms = list[Any](), list[int](), Counter[str]()
    for number, value in enumerate(values):
        try:
            line = read_form(value, "", settings)
        except UserError:
            return None
        if line is None:
            continue
        messages = _with_system(line, settings)
        if messages is None or line.tools or line.is_exact:
            return None
        lists.append(messages)
        numbers.append(number)
        if line.form:
            forms[line.form] += 1
    return BatchLines(lists, numbers, forms)


def _with_system(line: FormLine, settings: LineSettings) -> Any:
    """The messages with a system text that stands next to them; None if they have one of their own."""
    if line.system in EMPTY_VALUES:
        return line.messages
    if not isinstance(line.messages, list) or settings.roles.get(line.messages[0]["role"]) == "system":
        return None
    return [{"role": "system", "content": line.system}, *line.messages]
