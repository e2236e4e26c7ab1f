"""Keys that decide what is trained, by the words in their names and the types of their values.

Metadata (ids, dates, scores, languages) is ignored. A key that says what is trained, or that holds content
which is not trained, is refused by name: ignoring it would train something else. ``data.ignore_columns``
overrules this.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

EMPTY_VALUES: tuple[object, ...] = (None, "", [], {})
"""Values that are equal to a missing key."""
_NO_MEDIA = "only text can be trained: remove the key, and what the conversation says about it"
_NO_PREFERENCES = "preferences cannot be trained, only conversations: write the better answer into `messages`"
_TO_WEIGHT = "write `weight` 0 or 1 into messages, or into the line"
_TO_CONTENT = "put what is to be trained into content, and remove the key"
_NO_COPIES = "its text is in no message: add it there, or remove the key"
_NO_TOKENS = "tokens are made from messages: remove the key"
_FLAGS = ("true", "false")
_ON = ("true", "1", "1.0", "yes")
_SWITCHES = (*_FLAGS, *_ON, "0", "0.0", "no")
_OTHER_WORDS = frozenset(["height", "eight", "strain", "trait", "trail", "brain", "grain", "drain", "pools"])
"""Words that are near to a key and mean something else."""

_SLIP = 2
"""Characters that a slip adds or leaves out at most."""


@dataclass(frozen=True, slots=True, eq=False)  # hashed by identity, as lookups are on the path of each line
class KeyRule:
    """A kind of keys that are refused."""

    words: frozenset[str]
    """Any of these in the name."""
    others: frozenset[str] | None
    """Words that may stand next to them; None for any."""
    refuses: Callable[[Any], bool]
    """Whether a value of this type means it."""
    reason: str
    copies: bool = False
    """Whether it is harmless where all its texts are in the messages, or in the content of its message."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _is_content(value: object) -> bool:
    return isinstance(value, str | list | tuple | dict)


def _is_anything(value: object) -> bool:
    return True


def _is_switch(value: object) -> bool:
    """Anything but text; in tables of strings, such as CSV, text that stands for a flag or a number."""
    return not isinstance(value, str) or value.strip().lower() in _SWITCHES


def _is_on(value: object) -> bool:
    """A list, as of messages, or a switch that is on; one that is off asks for what happens anyway."""
    if isinstance(value, str):
        return value.strip().lower() in _ON
    return isinstance(value, list) or value in (1, True)


def _is_prose(value: object) -> bool:
    """Content, but not the name of a mode, such as `off` or `high`."""
    if isinstance(value, str):
        return not re.fullmatch(r"[A-Za-z0-9_-]*", value)
    return _is_content(value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _FLAGS)


def _is_ids(value: object) -> bool:
    if isinstance(value, str):
        return bool(re.match(r"\s*\[\s*-?\d", value))
    return isinstance(value, list) and isinstance(value[0], int | float)


def _is_template(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and "{" in value)


def has_objects(value: object) -> bool:
    """Whether it is an object, a list with one, or such a value as JSON in a string."""
    if isinstance(value, str):
        return bool(re.match(r"\s*(\{|\[\s*\{)\s*\"", value))
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, dict) for item in value)
    )


_MEDIA = "image images img imgs picture pictures photo photos pixel audio audios video videos"
_LISTS = "messages message conversation conversations contents dialog dialogue"
_FIELDS = (
    "prompt completion response instruction output input history context "
    "prompts completions responses instructions outputs inputs contexts"
)
MEDIA = KeyRule(_words(_MEDIA), None, _is_content, _NO_MEDIA)
MASKS = KeyRule(_words("loss mask masks masked"), None, _is_anything, _TO_WEIGHT)
FLAGS = KeyRule(_words("train trainable trained training untrained"), None, _is_switch, _TO_WEIGHT)
LEFT_OUT = KeyRule(
    _words("skip skipped exclude excluded ignore ignored"),
    _words("is should sample example line row message turn"),
    _is_on,
    _TO_WEIGHT,
)
WEIGHTS = KeyRule(
    _words("weight weights"),
    _words("sample example line row message loss turn"),
    _is_anything,
    _TO_WEIGHT,
)
REASONING = KeyRule(
    _words("reasoning thinking thought thoughts cot rationale"),
    _words("content trace text chain of process details blocks summary steps internal hidden"),
    _is_prose,
    _TO_CONTENT,
    copies=True,
)
_COMMON = (MEDIA, MASKS, FLAGS, LEFT_OUT, WEIGHTS, REASONING)
_TOOL_WORDS = "tool tools function functions"
MESSAGE_RULES = (
    *_COMMON,
    KeyRule(
        _words("text value parts"),
        _words(""),
        _is_content,
        "there is a `content`: remove one of them",
        copies=True,
    ),
    KeyRule(
        _words("call calls"),
        _words(_TOOL_WORDS),
        _is_content,
        "write it as `tool_calls`, a list",
    ),
    KeyRule(_words(_TOOL_WORDS), None, has_objects, "write them as `tools` next to the messages"),
    KeyRule(
        _words("documents attachments"),
        _words(""),
        has_objects,
        _TO_CONTENT,
    ),
)
LINE_RULES = (
    *_COMMON,
    KeyRule(
        _words("chosen rejected preferred dispreferred preference preferences"),
        None,
        _is_content,
        _NO_PREFERENCES,
    ),
    KeyRule(_words("label kto desirable"), _words("tag is"), _is_flag, _NO_PREFERENCES),
    KeyRule(_words("labels"), _words("token"), _is_ids, _NO_TOKENS),
    KeyRule(_words("input token tokens"), _words("ids"), _is_ids, _NO_TOKENS),
    KeyRule(
        _words("functions"),
        _words(""),
        has_objects,
        'write "tools": [{"type": "function", "function": …}, …]',
    ),
    KeyRule(
        _words(_TOOL_WORDS),
        None,
        has_objects,
        "call it `tools`, name it in data.columns ({tools: …}), or remove it",
    ),
    KeyRule(
        _words("system sys developer preamble"),
        _words("prompt message messages instruction instructions content text msg"),
        _is_content,
        "call it `system`, name it in data.columns ({system: …}), or remove it",
        copies=True,
    ),
    KeyRule(_words("documents attachments"), _words(""), has_objects, _NO_COPIES, copies=True),
    KeyRule(
        _words("template"),
        _words("chat kwargs"),
        _is_template,
        "data.format chooses the template: remove the key",
    ),
    KeyRule(
        _words(_LISTS),
        _words(""),
        _is_content,
        "the line has its conversation twice: remove one of them",
        copies=True,
    ),
    KeyRule(
        _words(_FIELDS),
        _words(""),
        _is_content,
        _NO_COPIES,
        copies=True,
    ),
)
LINE_KEYS = ("messages", "system", "tools", "weight", "train")


class Refusal(NamedTuple):
    """Why a key is not ignored."""

    reason: str
    copies: bool


def find_refusal(
    key: str, value: object, rules: tuple[KeyRule, ...], known: tuple[str, ...]
) -> Refusal | None:
    """Why a key of this value would be refused; None for metadata. known: keys that it may be a slip of."""
    if value in EMPTY_VALUES:
        return None
    for rule in rules_of(key, rules):
        if rule.refuses(value):
            return Refusal(rule.reason, rule.copies)
    if near := nearest_key(key, known):
        return Refusal(f"did you mean {near!r}? Rename or remove it", False)
    return None


def is_suspicious(key: str, rules: tuple[KeyRule, ...], known: tuple[str, ...]) -> bool:
    """Whether some value of this key would be refused."""
    return bool(rules_of(key, rules)) or bool(nearest_key(key, known))


@lru_cache(4096)
def rules_of(key: str, rules: tuple[KeyRule, ...]) -> tuple[KeyRule, ...]:
    """The rules that the words of this name fall under."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", key)}
    return tuple(
        rule
        for rule in rules
        if words & rule.words and (rule.others is None or words <= rule.words | rule.others)
    )


@lru_cache(4096)
def nearest_key(key: str, known: tuple[str, ...]) -> str:
    """The known key that a misspelt one is close to, or nothing."""
    if key.lower() in _OTHER_WORDS or key in known:
        return ""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    return close[0] if close and abs(len(close[0]) - len(key)) <= _SLIP else ""


def is_copy(value: object, text: str) -> bool:
    """Whether all texts in a value are in ``text``."""
    return all(part in text for part in texts_of(value))


def joined_texts(value: object) -> str:
    """All texts in a value, for ``is_copy``."""
    return "\0".join(texts_of(value))


def texts_of(value: object) -> list[str]:
    """All texts in a value, in any order, without names of roles and types."""
    texts, waiting = [], [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            waiting += [item for key, item in part.items() if key not in ("role", "from", "type")]
        elif isinstance(part, list | tuple):
            waiting += part
    return texts
