"""Validation of message keys other than role and content: supported, refused or ignored.

Keys without effect (``name``, ids, dates) are ignored. A key that changes what is trained or adds content is
supported or refused by name: ignoring it would train something else.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from gemfit.data.jsonl.error_values import excerpt
from gemfit.errors import UserError

SUPPORTED_KEYS = ("role", "content", "weight", "tool_calls", "tool_call_id")
_TO_WEIGHT = "write `weight` 0 or 1 instead"
_TO_CONTENT = "put what is to be trained into content, and remove the key"
_NO_MEDIA = "only text can be trained: remove the key, or the message"
REFUSED_KEYS = {
    **dict.fromkeys(
        ("train", "trainable", "training", "loss", "loss_weight", "loss_mask", "mask"), _TO_WEIGHT
    ),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking", "refusal", "prefix"), _TO_CONTENT),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), _NO_MEDIA),
    "function_call": "write it as `tool_calls`",
    "from": "write `role` instead",
    "value": "write `content` instead",
}
"""Keys of other formats, and what to write instead."""
EMPTY_VALUES: tuple[object, ...] = (None, "", [])
"""Values that are equal to a missing key."""


def check_keys(message: Mapping[str, object], role: str, where: str) -> None:
    """Refuse an unsupported key that would change what is trained, and an invalid weight."""
    for key in message:
        if key in SUPPORTED_KEYS or not is_relevant(key) or message[key] in EMPTY_VALUES:
            continue
        if key in REFUSED_KEYS:
            raise UserError(f"{where} has the key {key!r}; {REFUSED_KEYS[key]}")
        raise UserError(
            f"{where} has the unknown key {key!r}; did you mean {_closest_key(key)!r}? Rename or remove it"
        )
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, str) or weight not in (0, 1)):
        raise UserError(f"{where}.weight is {excerpt(weight)}, expected 0 (not trained) or 1")
    if weight and role != "assistant":
        raise UserError(
            f"{where}.weight is 1 in a message of role {role!r}; only assistants have one: remove it"
        )


def plain_values(values: Sequence[Mapping[str, object]]) -> bool:
    """Whether no line has tools or functions."""
    alone = sum(map(len, values)) == len(values)
    return alone or not any(value.get("tools") or value.get("functions") for value in values)


def plain_messages(items: Sequence[Mapping[str, object]]) -> bool:
    """Whether no message has a relevant key other than role, content and a valid weight."""
    if _are_pairs(items):
        return True
    keys = set[str]().union(*items) - {"role", "content"}
    return all(_is_plain(items, key) for key in keys if is_relevant(key))


def zero_weight_messages(items: Sequence[Mapping[str, object]]) -> list[int]:
    """Indices of the messages with `weight: 0`."""
    return [] if _are_pairs(items) else [n for n, item in enumerate(items) if item.get("weight", 1) == 0]


def _are_pairs(items: Sequence[Mapping[str, object]]) -> bool:
    """Whether no message has more than two keys."""
    return sum(map(len, items)) <= 2 * len(items)


def _is_plain(items: Sequence[Mapping[str, object]], key: str) -> bool:
    if key != "weight":
        return all(item.get(key) in EMPTY_VALUES for item in items)
    weights = ((item.get(key), item["role"]) for item in items)
    return all(
        weight is None or weight == 0 or (weight == 1 and role == "assistant") for weight, role in weights
    )


@lru_cache(4096)
def is_relevant(key: str) -> bool:
    """Whether a key is supported, refused, or similar to a supported one."""
    return key in SUPPORTED_KEYS or key in REFUSED_KEYS or bool(_closest_key(key))


def _closest_key(key: str) -> str:
    """The supported key that a misspelt one is close to; a misspelt role or content is found as missing."""
    close = difflib.get_close_matches(key, SUPPORTED_KEYS[2:], n=1, cutoff=0.82)
    return close[0] if close else ""
