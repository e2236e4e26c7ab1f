"""Keys of a message beside role and content: which mean something, and which are refused.

Keys that change nothing (``name``, ids, dates) are ignored. One that says what to train or what else
belongs to the message is understood, or refused by name: ignoring it would train something else.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from gemfit.data.jsonl.error_values import shown
from gemfit.errors import UserError

UNDERSTOOD = ("role", "content", "weight", "tool_calls", "tool_call_id")
_TO_WEIGHT = "write `weight` 0 or 1 instead"
_TO_CONTENT = "put what is to be trained into content, and remove the key"
_NO_MEDIA = "only text can be trained: remove the key, or the message"
REFUSED = {
    **dict.fromkeys(
        ("train", "trainable", "training", "loss", "loss_weight", "loss_mask", "mask"), _TO_WEIGHT
    ),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking", "refusal", "prefix"), _TO_CONTENT),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), _NO_MEDIA),
    "function_call": "write it as `tool_calls`",
    "from": "write `role` instead",
    "value": "write `content` instead",
}
"""Keys with a meaning elsewhere, and what to do instead."""
NOTHING: tuple[object, ...] = (None, "", [])
"""Values of a key that say as little as if it were not there."""


def check_keys(message: Mapping[str, object], role: str, where: str) -> None:
    """Refuse a key that would change what is trained and is not understood, and a wrong weight."""
    for key in message:
        if key in UNDERSTOOD or not matters(key) or message[key] in NOTHING:
            continue
        if key in REFUSED:
            raise UserError(f"{where} has the key {key!r}; {REFUSED[key]}")
        raise UserError(
            f"{where} has the unknown key {key!r}; did you mean {_meant(key)!r}? Rename or remove it"
        )
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, str) or weight not in (0, 1)):
        raise UserError(f"{where}.weight is {shown(weight)}, expected 0 (not trained) or 1")
    if weight and role != "assistant":
        raise UserError(
            f"{where}.weight is 1 in a message of role {role!r}; only assistants have one: remove it"
        )


def plain_values(values: Sequence[Mapping[str, object]]) -> bool:
    """True where no line says anything beside its messages."""
    alone = sum(map(len, values)) == len(values)
    return alone or not any(value.get("tools") or value.get("functions") for value in values)


def plain_messages(items: Sequence[Mapping[str, object]]) -> bool:
    """True where no message says anything beside its role, its content and a right weight."""
    if _are_pairs(items):
        return True
    keys = set[str]().union(*items) - {"role", "content"}
    return all(_is_plain(items, key) for key in keys if matters(key))


def weightless(items: Sequence[Mapping[str, object]]) -> list[int]:
    """Indices of the messages with `weight: 0`."""
    return [] if _are_pairs(items) else [n for n, item in enumerate(items) if item.get("weight", 1) == 0]


def _are_pairs(items: Sequence[Mapping[str, object]]) -> bool:
    """True where no message has more than two keys."""
    return sum(map(len, items)) <= 2 * len(items)


def _is_plain(items: Sequence[Mapping[str, object]], key: str) -> bool:
    if key != "weight":
        return all(item.get(key) in NOTHING for item in items)
    weights = ((item.get(key), item["role"]) for item in items)
    return all(
        weight is None or weight == 0 or (weight == 1 and role == "assistant") for weight, role in weights
    )


@lru_cache(4096)
def matters(key: str) -> bool:
    """True for keys that are understood or refused, and for what looks like a slip of one."""
    return key in UNDERSTOOD or key in REFUSED or bool(_meant(key))


def _meant(key: str) -> str:
    """What a slip was to be; a misspelt role or content is missing, so it is found without this."""
    close = difflib.get_close_matches(key, UNDERSTOOD[2:], n=1, cutoff=0.82)
    return close[0] if close else ""
