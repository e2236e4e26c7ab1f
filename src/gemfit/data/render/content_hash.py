"""Two hashes of each conversation: one of exactly what it says, one of what a person would call the same.

``likeness`` takes ASCII letters in lower case, and one mark for every run of ASCII characters that are
neither letter nor digit, and of the spaces, dashes and quotation marks of Latin-1 (U+00A0 to U+00BF),
General Punctuation (U+2000 to U+206F) and CJK (U+3000 to U+303F); marks at both ends are dropped. Letters
beyond ASCII stay as they are. Both hashes are XXH3, the same on every machine and for ever: they decide
the order of a pack and the sides of its split.

Cost: some 0.5 to 1 GB of text a second, and a microsecond a conversation.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.jsonl.message_batch import Messages

_MARK, _WIDE = 32, 1
_UNTRAINED = 128


def _classes() -> NDArray[np.uint8]:
    """What a byte becomes: itself, lower case, a mark, or _WIDE where the next bytes have to be seen."""
    classes = np.full(256, _MARK, np.uint8)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            classes[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    classes[[0xC2, 0xE2, 0xE3]] = _WIDE
    return classes


_CLASSES = _classes()


def content_digests(messages: Messages) -> NDArray[np.uint64]:
    """(conversations, 2): XXH3-128 of roles, lengths, contents and what is kept out of the loss."""
    lengths = np.diff(messages.ends, prepend=0)
    roles = messages.roles.astype(np.int64)
    if messages.untrained is not None:
        roles = roles | np.where(messages.untrained, _UNTRAINED, 0)
    # Lengths in front keep ("ab", "c") apart from ("a", "bc").
    heads = (lengths << 8 | roles).astype("<i8").tobytes()
    digest, text = xxhash.xxh3_128_digest, memoryview(messages.text)
    found = [
        digest(heads[8 * first : 8 * last] + text[start:stop])
        for first, last, start, stop in _bounds(messages.last, messages.ends)
    ]
    return np.frombuffer(b"".join(found), ">u8").reshape(-1, 2).astype(np.uint64)


def likeness(messages: Messages) -> NDArray[np.uint64]:
    """(conversations,): XXH3-64 of roles and of contents without case, spacing and punctuation."""
    text, ends = _plain(
        np.frombuffer(messages.text, np.uint8), messages.ends, messages.roles, messages.last, _CLASSES
    )
    plain, stops = memoryview(text), ends.tolist()
    digest = xxhash.xxh3_64_intdigest
    found = [digest(plain[start:stop]) for start, stop in zip([0, *stops[:-1]], stops, strict=False)]
    return np.array(found, np.uint64)


def _bounds(last: NDArray[np.int64], ends: NDArray[np.int64]) -> zip[tuple[int, int, int, int]]:
    """First and last message of each conversation, and where its text begins and ends."""
    firsts = np.concatenate([np.zeros(1, np.int64), last])
    edges = np.concatenate([np.zeros(1, np.int64), ends])[firsts]
    return zip(
        firsts[:-1].tolist(), firsts[1:].tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True
    )


@njit
def _plain(text, ends, roles, last, classes):  # type: ignore[no-untyped-def]
    """Plain texts of all conversations, each message behind a byte for its role; and their ends."""
    plain = np.empty(len(text) + 2 * len(ends) + 1, np.uint8)
    stops = np.empty(len(last), np.int64)
    at, position, message = 0, 0, 0
    for conversation in range(len(last)):
        while message < last[conversation]:
            plain[at] = roles[message] + np.uint8(1)
            at = _plain_message(text, position, ends[message], classes, plain, at + 1)
            position = ends[message]
            message += 1
        stops[conversation] = at
    return plain[:at], stops


@njit_helper
def _plain_message(text, start, stop, classes, plain, at):  # type: ignore[no-untyped-def]
    """Write one plain text from ``at`` on; where it ends."""
    before = np.uint8(_MARK)
    position = start
    while position < stop:
        kind = classes[text[position]]
        if kind == _WIDE:
            width = _mark_width(text, position, stop)
            kind = np.uint8(_MARK) if width else text[position]
            position += width - 1 if width else 0
        plain[at] = kind
        # A mark behind a mark is overwritten by what comes next.
        at += np.int64((kind != _MARK) | (before != _MARK))
        before = kind
        position += 1
    # The role's byte stands in front, so one place back is still this message's.
    return at - 1 if before == _MARK and at > 0 and plain[at - 1] == _MARK else at


@njit_helper
def _mark_width(text, position, stop):  # type: ignore[no-untyped-def]
    """Bytes of the space or punctuation of several bytes that begins here, or 0."""
    first, second = text[position], text[position + 1] if position + 1 < stop else 0
    if first == 0xC2:
        return 2 if 0xA0 <= second <= 0xBF else 0
    if first == 0xE3:
        return 3 if second == 0x80 else 0
    third = text[position + 2] if position + 2 < stop else 0
    return 3 if second == 0x80 or (second == 0x81 and third <= 0xAF) else 0
