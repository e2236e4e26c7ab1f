"""Validation of message keys other than role and content: supported, refused or ignored.

Keys without effect (``name``, ids, dates) are ignored. A key that changes what is trained or adds content is
supported or refused by name (see ``key_rules``): ignoring it would train something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gemfit.data.jsonl.error_values import excerpt
from gemfit.data.jsonl.key_rules import (
    EMPTY_VALUES,
    MESSAGE_RULES,
    find_refusal,
    is_copy,
    is_suspicious,
    joined_texts,
)
from gemfit.errors import UserError

SUPPORTED_KEYS = ("role", "content", "weight", "tool_calls", "tool_call_id")
MISSPELT_KEYS = SUPPORTED_KEYS[2:]
"""Keys that a slip may stand for; a misspelt role or content is found as missing."""
_TO_CONTENT = "put what is to be trained into content, and remove the key"
REFUSED_KEYS = {
    **dict.fromkeys(("refusal", "prefix"), _TO_CONTENT),
    "function_call": "write it as `tool_calls`",
    "from": "there is a `role`: remove one of them",
}
"""Keys of other formats, and what to write instead."""


def check_keys(message: Mapping[str, object], role: str, where: str) -> None:
    """Refuse an unsupported key that would change what is trained, and an invalid weight."""
    for key, value in message.items():
        if key in SUPPORTED_KEYS or value in EMPTY_VALUES:
            continue
        if key in REFUSED_KEYS and value is not False:
            raise UserError(f"{where} has the key {key!r}; {REFUSED_KEYS[key]}")
        refusal = find_refusal(key, value, MESSAGE_RULES, MISSPELT_KEYS)
        if refusal and not (refusal.copies and is_copy(value, joined_texts(message.get("content")))):
            raise UserError(f"{where} has the key {key!r}; {refusal.reason}")
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, str) or weight not in (0, 1)):
        raise UserError(f"{where}.weight is {excerpt(weight)}, expected 0 (not trained) or 1")
    if weight and role != "assistant":
        raise UserError(
            f"{where}.weight is 1 in a message of role {role!r}; only assistants have one: remove it"
        )


def plain_messages(items: Sequence[Mapping[str, object]], assistants: frozenset[str]) -> bool:
    """Whether no message has a relevant key other than role, content and a valid weight."""
    if _are_pairs(items):
        return True
    keys = set[str]().union(*items) - {"role", "content"}
    return all(_is_plain(items, key, assistants) for key in keys if is_relevant(key))


def zero_weight_messages(items: Sequence[Mapping[str, object]]) -> list[int]:
    """Indices of the messages with `weight: 0`."""
    return [] if _are_pairs(items) else [n for n, item in enumerate(items) if item.get("weight", 1) == 0]


def _are_pairs(items: Sequence[Mapping[str, object]]) -> bool:
    """Whether no message has more than two keys."""
    return sum(map(len, items)) <= 2 * len(items)


def _is_plain(items: Sequence[Mapping[str, object]], key: str, assistants: frozenset[str]) -> bool:
    if key != "weight":
        return all(item.get(key) in EMPTY_VALUES for item in items)
    weights = ((item.get(key), item["role"]) for item in items)
    return all(
        weight is None or weight == 0 or (weight == 1 and role in assistants) for weight, role in weights
    )


def is_relevant(key: str) -> bool:
    """Whether a key is supported, refused, or similar to a supported one."""
    return key in SUPPORTED_KEYS or key in REFUSED_KEYS or is_suspicious(key, MESSAGE_RULES, MISSPELT_KEYS)
