"""Strip white space of contents, as the ``trim`` filter of chat templates does.

White space is that of Python's ``str.strip``. No cost if no role is trimmed; else both ends of each content
are read, and the text is copied if any content changes.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.jsonl.line_settings import ROLES
from gemfit.data.jsonl.message_batch import Messages


def _bytes(text: str) -> int:
    """UTF-8 as a number, first byte highest."""
    return int.from_bytes(text.encode(), "big")


SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]
_BY_WIDTH = tuple(
    np.array([_bytes(space) for space in SPACES if len(space.encode()) == width], np.int64)
    for width in (1, 2, 3)
)
"""White space by number of UTF-8 bytes: 1, 2, 3."""


def trimmed(messages: Messages, roles: AbstractSet[str]) -> tuple[bytes, NDArray[np.int64]]:
    """All contents as they are tokenized, and their ends. ends: (messages,)."""
    cut = np.array([role in roles for role in ROLES])[messages.roles]
    if not cut.any():
        return messages.text, messages.ends
    text = np.frombuffer(messages.text, np.uint8)
    starts, stops = _inner(text, messages.ends, cut, *_BY_WIDTH)
    ends = np.cumsum(stops - starts)
    if len(ends) and ends[-1] == len(text):
        return messages.text, messages.ends
    view = memoryview(messages.text)
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    return b"".join([view[start:stop] for start, stop in spans]), ends


@njit
def _inner(text, ends, cut, one, two, three):  # type: ignore[no-untyped-def]
    """Start and end of each content without white space."""
    starts, stops = np.empty(len(ends), np.int64), np.empty(len(ends), np.int64)
    start = 0
    for message in range(len(ends)):
        first, stop = start, ends[message]
        start = stop
        if cut[message]:
            width = 1
            while width and first < stop:
                width = _space(text, first, stop, False, one, two, three)
                first += width
            width = 1
            while width and first < stop:
                width = _space(text, first, stop, True, one, two, three)
                stop -= width
        starts[message], stops[message] = first, stop
    return starts, stops


@njit_helper
def _space(text, start, stop, at_end, one, two, three):  # type: ignore[no-untyped-def]
    """Bytes of the white space character at one end, or 0."""
    value = np.int64(0)
    for width in range(1, min(3, stop - start) + 1):
        if at_end:
            value += np.int64(text[stop - width]) << (8 * (width - 1))
        else:
            value = value << 8 | np.int64(text[start + width - 1])
        if width == 1:
            spaces = one
        elif width == 2:
            spaces = two
        else:
            spaces = three
        for space in spaces:
            if space == value:
                return width
    return 0
