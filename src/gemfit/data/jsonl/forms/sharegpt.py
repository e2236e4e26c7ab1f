"""ShareGPT: `conversations` of `from` and `value`, or of `role` and `content`; lists of messages."""

from __future__ import annotations

from typing import Any

from gemfit.data.jsonl.forms.form_line import FormLine, PartNames

LISTS = ("conversations", "conversation")


def from_list(messages: Any, key: str, form: str) -> FormLine:
    """A list of messages that is called ``key``; each has `role` and `content`, or `from` and `value`."""
    if not _has_from(messages):
        return FormLine(form, messages, (key,), PartNames(key))
    names = PartNames(key, "from", "value")
    return FormLine(form or "sharegpt", list(map(_message, messages)), (key,), names)


def _has_from(messages: Any) -> bool:
    if not isinstance(messages, list | tuple) or not messages:
        return False
    first = messages[0]
    return isinstance(first, dict) and "from" in first and "role" not in first


def _message(item: Any) -> Any:
    """The message with the usual keys; anything else stays, and is refused as it is."""
    if not isinstance(item, dict) or "role" in item or "content" in item:
        return item
    if len(item) == 2:
        return {"role": item.get("from"), "content": item.get("value")}
    more = {key: value for key, value in item.items() if key not in ("from", "value")}
    return {"role": item.get("from"), "content": item.get("value"), **more}
