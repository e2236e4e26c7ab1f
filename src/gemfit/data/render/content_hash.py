"""Content hashes for deduplication and the validation split: one exact, one normalized.

``normalized_hashes`` lowers ASCII letters and replaces every run of separators by one: ASCII characters that
are neither letter nor digit, and the spaces, dashes and quotation marks of Latin-1 (U+00A0 to U+00BF),
General Punctuation (U+2000 to U+206F) and CJK (U+3000 to U+303F); those at both ends are dropped. Letters
beyond ASCII stay as they are. Both hashes are XXH3 and may never change: they decide the order of a pack
and its validation split.

Cost: some 0.5 to 1 GB of text per second, and a microsecond per conversation.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.jsonl.message_batch import Messages

_SEPARATOR, _WIDE = 32, 1
_UNTRAINED = 128


def _classes() -> NDArray[np.uint8]:
    """Replacement of each byte: itself, lower case, a separator, or _WIDE if the next bytes decide."""
    classes = np.full(256, _SEPARATOR, np.uint8)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            classes[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    classes[[0xC2, 0xE2, 0xE3]] = _WIDE
    return classes


_CLASSES = _classes()


def content_digests(messages: Messages) -> NDArray[np.uint64]:
    """(conversations, 2): XXH3-128 of roles, lengths, contents and which messages have `weight: 0`."""
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


def normalized_hashes(messages: Messages) -> NDArray[np.uint64]:
    """(conversations,): XXH3-64 of roles and contents, without case, spacing and punctuation."""
    text, ends = _normalize(
        np.frombuffer(messages.text, np.uint8), messages.ends, messages.roles, messages.last, _CLASSES
    )
    normalized, stops = memoryview(text), ends.tolist()
    digest = xxhash.xxh3_64_intdigest
    found = [digest(normalized[start:stop]) for start, stop in zip([0, *stops[:-1]], stops, strict=False)]
    return np.array(found, np.uint64)


def _bounds(last: NDArray[np.int64], ends: NDArray[np.int64]) -> zip[tuple[int, int, int, int]]:
    """First and last message of each conversation, and where its text begins and ends."""
    firsts = np.concatenate([np.zeros(1, np.int64), last])
    edges = np.concatenate([np.zeros(1, np.int64), ends])[firsts]
    return zip(
        firsts[:-1].tolist(), firsts[1:].tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True
    )


@njit
def _normalize(text, ends, roles, last, classes):  # type: ignore[no-untyped-def]
    """Normalized texts of all conversations, each message preceded by a byte for its role; and their ends."""
    normalized = np.empty(len(text) + 2 * len(ends) + 1, np.uint8)
    stops = np.empty(len(last), np.int64)
    at, position, message = 0, 0, 0
    for conversation in range(len(last)):
        while message < last[conversation]:
            normalized[at] = roles[message] + np.uint8(1)
            at = _normalize_message(text, position, ends[message], classes, normalized, at + 1)
            position = ends[message]
            message += 1
        stops[conversation] = at
    return normalized[:at], stops


@njit_helper
def _normalize_message(text, start, stop, classes, normalized, at):  # type: ignore[no-untyped-def]
    """Write one normalized text from ``at`` on; where it ends."""
    before = np.uint8(_SEPARATOR)
    position = start
    while position < stop:
        kind = classes[text[position]]
        if kind == _WIDE:
            width = _separator_width(text, position, stop)
            kind = np.uint8(_SEPARATOR) if width else text[position]
            position += width - 1 if width else 0
        normalized[at] = kind
        # A separator after a separator is overwritten by what comes next.
        at += np.int64((kind != _SEPARATOR) | (before != _SEPARATOR))
        before = kind
        position += 1
    # The role's byte precedes the text, so the byte before is still this message's.
    return at - 1 if before == _SEPARATOR and at > 0 and normalized[at - 1] == _SEPARATOR else at


@njit_helper
def _separator_width(text, position, stop):  # type: ignore[no-untyped-def]
    """Bytes of the multi-byte space or punctuation that begins here, or 0."""
    first, second = text[position], text[position + 1] if position + 1 < stop else 0
    if first == 0xC2:
        return 2 if 0xA0 <= second <= 0xBF else 0
    if first == 0xE3:
        return 3 if second == 0x80 else 0
    third = text[position + 2] if position + 2 < stop else 0
    return 3 if second == 0x80 or (second == 0x81 and third <= 0xAF) else 0
