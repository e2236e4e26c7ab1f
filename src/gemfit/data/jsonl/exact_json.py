"""JSON that keeps the text of numbers: what is trained is what was written.

``orjson`` turns integers above 64 bits into floats, and writes `1.10` as `1.1`. Here such a number is a float
that remembers its text, and ``dump_json`` writes that. Keys keep their order; a key that stands twice in an
object is an error, because a parser would drop one of the two values in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson

_INFINITE = re.compile(rb"\d[\d.]*[eE]\+?\d+|\d{300,}")
"""What may be numbers beyond 64-bit floats, which ``orjson`` refuses: all with an exponent, and long ones."""
_LONGEST = 20
"""Characters of an integer of 64 bits at most."""


class NumberText(float):
    """A number that would be written with other characters than it was read."""

    text: str

    def __new__(cls, text: str) -> NumberText:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


class RepeatedKey(ValueError):
    """A key that stands twice in one object."""


class NotANumber(ValueError):
    """NaN or an infinity, which JSON does not have."""


def load_json(text: bytes) -> Any:
    """Decode JSON; ``RepeatedKey`` for a key that stands twice in one object, else ``ValueError``."""
    try:
        value = orjson.loads(text)  # strict, and its errors say where
    except orjson.JSONDecodeError as error:
        if "infinity" not in error.msg:
            raise
        value = orjson.loads(_INFINITE.sub(b"0", text))
    try:
        return _decoder().decode(text.decode())
    except json.JSONDecodeError as error:  # what was replaced is no number
        raise orjson.JSONDecodeError(error.msg, error.doc, error.pos) from None
    except RecursionError:
        # A thousand levels: what is trained is refused by ``dump_json``, and the rest is of no interest.
        return value


def dump_json(value: object) -> str:
    """Compact JSON with the text of numbers that was read; ``ValueError`` where it is nested too deeply."""
    try:
        return orjson.dumps(value, default=_unusual).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from None


def first_constant(text: str) -> str:
    """Names the first key with NaN or an infinity and its value; empty if there is none."""
    try:
        json.loads(text, object_pairs_hook=_finite_object, parse_constant=_Constant)
    except NotANumber as found:
        return str(found)
    except (ValueError, RecursionError):
        pass
    return ""


class _Constant:
    def __init__(self, name: str) -> None:
        self.name = name


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_int=_integer, parse_float=_fraction, object_pairs_hook=_object)


def _integer(text: str) -> int | NumberText:
    if len(text) > _LONGEST:
        return NumberText(text)
    number = int(text)
    return number if -(2**63) <= number < 2**64 and str(number) == text else NumberText(text)


def _fraction(text: str) -> float:
    number = float(text)
    return number if orjson.dumps(number) == text.encode() else NumberText(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKey(next(name for name in names if names.count(name) > 1))
    return found


def _finite_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, value in pairs:
        if constant := _constant_in(value):
            raise NotANumber(f"{constant.name} under the key {name!r}")
    return dict(pairs)


def _constant_in(value: Any) -> _Constant | None:
    """The first constant in a value; objects in it have been looked at."""
    if isinstance(value, list):
        return next((found for item in value if (found := _constant_in(item))), None)
    return value if isinstance(value, _Constant) else None


def _unusual(value: object) -> object:
    if isinstance(value, NumberText):
        return orjson.Fragment(value.text)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
