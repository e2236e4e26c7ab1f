"""Where personal data might be in text: one compiled pass over the bytes, some 1.1 GB/s.

It marks more than there is and never less than ``personal`` accepts. A candidate lies inside one
content, so that nothing is found across two of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

EMAIL, NUMBER, IBAN = 0, 1, 2
"""Kinds: around an `@`; digits grouped as in a phone or card number; two letters and two digits."""
MOST_BYTES = 320
"""Of the longest e-mail address; of a number, 64 is more than enough."""
_DIGIT, _LETTER, _MAILBOX, _AT = 1, 2, 4, 8

# The same byte eight times: the low seven bits, the highest, `@`, and what carries into the highest bit from
# `0` on and from `:` on, which follows `9`.
_LOW, _TOPS, _ATS, _FROM_0, _FROM_COLON = (
    np.uint64(0x0101010101010101 * byte) for byte in (0x7F, 0x80, 0x40, 0x80 - 0x30, 0x80 - 0x3A)
)


def _classes() -> Any:
    table = np.zeros(256, np.uint8)
    table[list(b"0123456789")] = _DIGIT | _MAILBOX
    table[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = _LETTER | _MAILBOX
    table[ord("_")] = _LETTER | _MAILBOX
    table[list(b".%+-")] = _MAILBOX
    table[ord("@")] = _AT
    return table


_CLASSES = _classes()


def find_candidates(text: bytes, ends: Any) -> Any:
    """Candidates in the order of the text: (found, 3) with kind, first byte, end."""
    # eights[i]: the eight bytes from i on as one number.
    eights = np.ndarray((max(0, len(text) - 7),), "<u8", buffer=text, strides=(1,))
    return _find(np.frombuffer(text, np.uint8), eights, ends, _CLASSES)


@njit(cache=True)
def _find(text: Any, eights: Any, ends: Any, classes: Any) -> Any:
    found = np.empty((64, 3), np.int64)
    count = 0
    start = 0
    for end in ends:
        at = _next(text, eights, start, end, classes)
        while at < end:
            if classes[text[at]] == _AT:
                what, first, stop = _around_at(text, start, end, at, classes)
                at += 1
            else:
                what, first, stop, at = _around_digits(text, start, end, at, classes)
            if what >= 0:
                if count == len(found):
                    found = np.concatenate((found, np.empty_like(found)))
                found[count] = what, first, stop
                count += 1
            at = _next(text, eights, at, end, classes)
        start = end
    return found[:count]


@njit(cache=True)
def _next(text: Any, eights: Any, at: int, end: int, classes: Any) -> int:
    """The next `@` or digit. Apart from all else, so that this loop is as tight as it can be."""
    while at + 8 <= end and not _marked(eights[at]):
        at += 8
    while at < end and not classes[text[at]] & (_DIGIT | _AT):
        at += 1
    return at


@njit(cache=True)
def _marked(eight: Any) -> Any:
    """Not 0 where one of eight bytes is a digit or an `@`. Sums of seven bits do not reach the next byte."""
    low = eight & _LOW
    digit = (low + _FROM_0) & ~(low + _FROM_COLON)
    other = (low ^ _ATS) + _LOW
    return (digit | ~other) & ~eight & _TOPS


@njit(cache=True)
def _around_at(text: Any, start: int, end: int, at: int, classes: Any) -> Any:
    first, stop = at, at + 1
    while first > start and at - first < MOST_BYTES and classes[text[first - 1]] & _MAILBOX:
        first -= 1
    while stop < end and stop - at < MOST_BYTES and classes[text[stop]] & _MAILBOX:
        stop += 1
    dotted = False
    for place in range(at + 2, stop - 2):
        dotted |= text[place] == 46
    if first == at or not dotted:
        return -1, 0, 0
    return EMAIL, first, stop


@njit(cache=True)
def _around_digits(text: Any, start: int, end: int, at: int, classes: Any) -> Any:
    """Kind, bounds, and where to go on; the lengths of the last three groups tell what it may be."""
    before = text[at - 1] if at > start else np.uint8(32)
    first = at
    if classes[before] & _LETTER:
        return _after_letters(text, start, end, at, classes)
    plus = before == 43
    if before == 40 or plus:
        first -= 1
    third, second, latest = 0, 0, 0
    grouped = plus
    digits = 0
    place = at
    while True:
        length = 0
        while place < end and classes[text[place]] & _DIGIT:
            place += 1
            length += 1
        third, second, latest = second, latest, length
        digits += length
        grouped |= length >= 14 or (third == 3 and second == 3 and latest == 4)
        grouped |= third == 4 and (second == 4 or second == 6) and latest >= 4
        gap = _after_gap(text, place, end)
        if gap == place or gap >= end or not classes[text[gap]] & _DIGIT or gap - first > 64:
            break
        place = gap
    if digits < 8 or not grouped:
        return -1, 0, 0, place
    return NUMBER, first, place, place


@njit(cache=True)
def _after_letters(text: Any, start: int, end: int, at: int, classes: Any) -> Any:
    """Two capitals and two digits at the start of a word begin an IBAN; other such digits are skipped."""
    digits_end = at
    while digits_end < end and classes[text[digits_end]] & _DIGIT:
        digits_end += 1
    capitals = at - start >= 2 and 65 <= text[at - 1] <= 90 and 65 <= text[at - 2] <= 90
    word = at - start == 2 or not classes[text[at - 3]] & (_LETTER | _DIGIT) if capitals else False
    if not word or digits_end - at < 2:
        return -1, 0, 0, digits_end
    stop = at
    while stop < end and stop - at < 48 and (classes[text[stop]] & (_DIGIT | _LETTER) or text[stop] == 32):
        stop += 1
    if stop - at < 13:
        return -1, 0, 0, digits_end
    return IBAN, at - 2, stop, digits_end


@njit(cache=True)
def _after_gap(text: Any, at: int, end: int) -> int:
    """Groups stand apart by a space, hyphen or dot, or a bracket and one of these around an area code."""
    if at < end and _parts_groups(text[at]):
        bracket = text[at] == 40 or text[at] == 41
        at += 1
        if at < end and _parts_groups(text[at]) and (bracket or text[at] == 40):
            at += 1
    return at


@njit(cache=True)
def _parts_groups(byte: int) -> bool:
    return byte == 32 or byte == 45 or byte == 46 or byte == 40 or byte == 41
