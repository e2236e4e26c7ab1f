"""Training identity as flat dotted keys, and the comparison of two.

A resume may change how a model is trained (ranks, strategy, when to save). What is trained may change only
in keys that are allowed one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from gemfit.errors import UserError, did_you_mean

Flat = Mapping[str, JsonValue]


class Change(NamedTuple):
    """One key with two values, as JSON would write them."""

    key: str
    was: JsonValue
    now: JsonValue

    def __str__(self) -> str:
        return f"{self.key}: was {_written(self.was)}, is {_written(self.now)}"


def flatten(value: JsonValue, prefix: str = "") -> dict[str, JsonValue]:
    """Nested mappings as one, with dotted keys; lists stay whole."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, JsonValue] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def changes(was: Flat, now: Flat) -> list[Change]:
    """Every key whose value differs; a key that only one side has counts as null on the other."""
    keys = dict.fromkeys([*was, *now])
    return [Change(key, was.get(key), now.get(key)) for key in keys if not _same(was.get(key), now.get(key))]


def check_changes(was: Flat, now: Flat, *, allowed: Collection[str], place: str) -> None:
    """``UserError`` that lists the keys in which ``now`` differs from ``was``.

    ``allowed`` holds keys, or the beginnings of keys such as ``optim``.
    """
    refused = [change for change in changes(was, now) if not _covers(allowed, change.key)]
    if refused:
        listed = "\n".join(f"  {change}" for change in refused)
        options = " ".join(f"--allow-changed {change.key}" for change in refused)
        raise UserError(
            f"{place}: this would change what is trained:\n{listed}\n"
            f"resume without these changes, allow them with {options}, or begin a new run"
        )


def check_known_keys(allowed: Iterable[str], known: Collection[str]) -> None:
    """``UserError`` for a key of ``--allow-changed`` that is not part of the training identity."""
    for key in allowed:
        if not any(_covers((key,), name) for name in known):
            hint = did_you_mean(key, known) or "; keys: " + ", ".join(known)
            raise UserError(f"--allow-changed {key}: is not a key that decides the training{hint}")


def _covers(allowed: Collection[str], key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in allowed)


def _same(one: JsonValue, other: JsonValue) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _written(value: JsonValue) -> str:
    return "null" if value is None else str(value)
