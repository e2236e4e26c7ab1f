"""Objects in which a key stands twice: ``orjson`` keeps the last value in silence.

An object with fewer keys than were written has lost one. Written keys are counted by searches for a quote
before a colon, decoded ones by their number; in the text of a message a backslash stands before such a quote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def may_repeat_keys(lines: Sequence[bytes], values: Sequence[Any], items: Sequence[Any]) -> bool:
    """Whether a key may stand twice in an object of these lines; the line path looks at each.

    values: the decoded lines. items: their messages, where most objects are.
    """
    data = np.frombuffer(b"\n".join(lines), np.uint8)
    colons = np.flatnonzero(data == ord(":"))
    # No line begins with a colon, and none with a space and one: an index below 0 finds the end of the last.
    spaced = data[colons - 1] == ord(" ")
    quotes = colons - 1 - spaced
    quotes = quotes[data[quotes] == ord('"')]
    outer = sum(map(len, values)) + sum(map(len, items))
    if len(quotes) == outer:
        return False
    written = int(np.count_nonzero(data[quotes - 1] != ord("\\")))
    # Most lines have no other objects, and need no walk through all values.
    return written != outer and written != _count_keys(values)


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_count_keys(item) for item in value.values() if isinstance(item, dict | list))
    return sum(_count_keys(item) for item in value if isinstance(item, dict | list))
