"""Objects in which a key stands twice: ``orjson`` keeps the last value in silence.

An object with fewer keys than were written has lost one. Written keys are counted by searches for a quote
before a colon, decoded ones by their number; in the text of a message a backslash stands before such a quote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def may_repeat_keys(lines: Sequence[bytes], values: Sequence[Any], items: Sequence[Any]) -> bool:
    """Whether a key may stand twice in an object of these lines; the line path looks at each.

    values: the decoded lines. items: their messages, where most objects are.
    """
    quoted = sum(line.count(b'":') + line.count(b'" :') for line in lines)
    outer = sum(map(len, values)) + sum(map(len, items))
    if quoted == outer:
        return False
    in_texts = sum(line.count(b'\\":') + line.count(b'\\" :') for line in lines)
    # Most lines have no other objects, and need no walk through all values.
    return quoted - in_texts != outer and quoted - in_texts != _count_keys(values)


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_count_keys(item) for item in value.values() if isinstance(item, dict | list))
    return sum(_count_keys(item) for item in value if isinstance(item, dict | list))
