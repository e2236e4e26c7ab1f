"""Objects in which a key stands twice: ``orjson`` keeps the last value in silence.

An object with fewer keys than were written has lost one. Written keys are the strings before a colon, which
are counted without decoding them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gemfit.data.compiled import external, njit, njit_helper

memchr = external("memchr", "int64", "int64", "int32", "int64")


def may_repeat_keys(lines: Sequence[bytes], values: Sequence[Any], items: Sequence[Any]) -> bool:
    """Whether a key may stand twice in an object of these lines; the line path looks at each.

    values: the decoded lines. items: their messages, where most objects are.
    """
    data = np.frombuffer(b"\n".join(lines), np.uint8)
    written = int(count_written_keys(data, data.ctypes.data))
    # Most lines have no other objects, and need no walk through all values.
    outer = sum(map(len, values)) + sum(map(len, items))
    return written != outer and written != _count_keys(values)


@njit
def count_written_keys(data, address):  # type: ignore[no-untyped-def]
    """Strings before a colon in valid lines of JSON. address: of ``data`` in memory."""
    count, stop = 0, address + len(data)
    start = memchr(address, 34, len(data))  # a quote
    while start:
        end = memchr(start + 1, 34, stop - start - 1)
        while data[end - address - 1] == 92 and is_escaped(data, end - address):  # after a backslash
            end = memchr(end + 1, 34, stop - end - 1)
        after = end - address + 1
        while after < len(data) and (data[after] == 32 or data[after] == 9 or data[after] == 13):  # a blank
            after += 1
        count += after < len(data) and data[after] == 58  # a colon
        start = memchr(address + after, 34, len(data) - after)
    return count


@njit_helper
def is_escaped(data, place):  # type: ignore[no-untyped-def]
    """Whether an odd number of backslashes stands before a byte."""
    first = place
    while data[first - 1] == 92:
        first -= 1
    return (place - first) % 2 == 1


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_count_keys(item) for item in value.values() if isinstance(item, dict | list))
    return sum(_count_keys(item) for item in value if isinstance(item, dict | list))
