"""Find personal data in contents: e-mail addresses, phone, card and bank account numbers.

What it finds: e-mail addresses (``email-validator``'s syntax, no reserved domain); phone numbers with
their country code, and North American ones in groups of 3, 3 and 4 (``phonenumbers``, valid ones only);
card numbers of a known issuer that pass Luhn's check, IBANs that pass theirs (``python-stdnum``).
What it cannot find: names, postal addresses, national phone numbers of other countries, and whatever is
written out, spelled apart or in digits other than ASCII. It prefers to miss: a number glued to a word, a
path, a version or a decimal point is left alone, and so is what follows `user:` in an address of the web.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from email_validator import EmailNotValidError, validate_email
from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import iban, luhn

from gemfit.data.filter.pii_scan import find_candidates
from gemfit.data.jsonl.message_batch import Messages

KINDS = ("email", "phone", "card", "iban")
_MASKS = {kind: f"[{kind.upper()}]".encode() for kind in KINDS}

ADDRESS = re.compile(
    rb"[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?"
    rb"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
)
_FILE_SUFFIXES = frozenset(
    b"css csv exe gif html jar jpeg jpg js json log pdf png svg ts txt webp xml".split()
)
"""Ends of names such as `icon@2x.png`; no top-level domains."""
_CARD = re.compile(
    rb"(?<![\d.,-])(?<!\d )(?:"
    rb"(?:4\d|5[1-5]|2[2-7]|6[0245]|35)\d\d([ -]?)\d{4}\1\d{4}\1\d{4}"
    rb"|3[47]\d\d([ -]?)\d{6}\2\d{5})(?![\d-])(?![.,]\d)(?! \d)"
)
_NORTH_AMERICAN = re.compile(
    rb"(?<![\d.-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\d])(?![ .-]\d)"
)
_IBAN = re.compile(
    rb"[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
)


class Find(NamedTuple):
    """One piece of personal data, by its bytes in the text."""

    start: int
    end: int
    kind: str


def scan(messages: Messages, action: Literal["count", "mask"]) -> tuple[Messages, dict[str, int]]:
    """Count what is found, by kind; under ``mask`` write `[EMAIL]` and such in its place.

    All other bytes stay as they are. Conversations are what they were, so their digests are to be taken
    of what is returned.
    """
    finds = list(find_pii(messages))
    counts = dict(Counter(find.kind for find in finds))
    if action == "count" or not finds:
        return messages, counts
    return _masked(messages, finds), counts


def find_pii(messages: Messages) -> Iterator[Find]:
    """Everything that is found, in the order of the text and without overlaps."""
    candidates = find_candidates(messages.text, messages.ends)
    # The content of each candidate; empty contents end where they begin and hold none.
    content = np.searchsorted(messages.ends, [start for _, start, _ in candidates], side="right")
    low = np.concatenate([np.zeros(1, np.int64), messages.ends])[content]
    bounds = zip(low.tolist(), messages.ends[content].tolist(), strict=True)
    done = 0
    for (kind, start, end), (low_end, high_end) in zip(candidates, bounds, strict=True):
        for find in _CHECKS[kind](messages.text, start, end, low_end, high_end):
            if find.start >= done:
                done = find.end
                yield find


def _emails(text: bytes, start: int, end: int, low: int, high: int) -> Iterator[Find]:
    for match in ADDRESS.finditer(text, start, end):
        suffix = match[0].rpartition(b".")[2].lower()
        if suffix in _FILE_SUFFIXES or _is_code(text, match.start(), match.end(), low, high):
            continue
        try:
            validate_email(match[0].decode(), check_deliverability=False)
        except EmailNotValidError:
            continue
        yield Find(match.start(), match.end(), "email")


def _is_code(text: bytes, start: int, end: int, low: int, high: int) -> bool:
    """`git@host:path`, `https://user:word@host`, or a product of matrices such as `a@b.dot(c)`."""
    after = text[end : min(end + 2, high)]
    if after[:1] in (b"(", b"[", b"=") or (after[:1] == b":" and not after[1:].isspace() and after[1:]):
        return True
    before = text[max(low, start - 80) : start]
    return (
        before[-1:] in (b":", b"/") and b"://" in before[max(before.rfind(b" "), before.rfind(b"\n")) + 1 :]
    )


def _numbers(text: bytes, start: int, end: int, low: int, high: int) -> Iterator[Find]:
    if text[start] == ord("+"):
        yield from _phones(text, start, end, low, region=None)
        return
    if _glued(text, start, end, low, high):
        return
    number = text[start:end]
    for match in _CARD.finditer(number):
        if luhn.is_valid(re.sub(rb"\D", b"", match[0]).decode()):
            yield Find(start + match.start(), start + match.end(), "card")
    for match in _NORTH_AMERICAN.finditer(number):
        yield from _phones(text, start + match.start(), start + match.end(), low, region="US")


def _glued(text: bytes, start: int, end: int, low: int, high: int) -> bool:
    """True for digits that are part of a word, a path, a version, an identifier or a decimal."""
    before, after = text[max(low, start - 1) : start], text[end : min(end + 1, high)]
    if before.isalnum() or after.isalnum() or after in (b"_", b"/"):
        return True
    return before in (b".", b"-", b"/", b",") and text[max(low, start - 2) : start - 1].isalnum()


def _phones(text: bytes, start: int, end: int, low: int, region: str | None) -> Iterator[Find]:
    # After a letter, digit or bracket, `+` is a sum.
    if start > low and text[start] == ord("+") and re.match(rb"[\w)\]]", text[start - 1 : start]):
        return
    for match in PhoneNumberMatcher(text[start:end].decode(), region, Leniency.VALID):
        yield Find(start + match.start, start + match.end, "phone")


def _ibans(text: bytes, start: int, end: int, low: int, high: int) -> Iterator[Find]:
    match = _IBAN.match(text, start, end)
    if match and iban.is_valid(match[0].decode()):
        yield Find(match.start(), match.end(), "iban")


Check = Callable[[bytes, int, int, int, int], Iterator[Find]]
_CHECKS: tuple[Check, ...] = (_emails, _numbers, _ibans)
"""By kind of the candidate. Each takes the text, the bounds of the candidate and those of its content."""


def _masked(messages: Messages, finds: list[Find]) -> Messages:
    pieces, at = [], 0
    for find in finds:
        pieces += [messages.text[at : find.start], _MASKS[find.kind]]
        at = find.end
    pieces.append(messages.text[at:])
    grown = np.array([len(_MASKS[find.kind]) - (find.end - find.start) for find in finds], np.int64)
    shifts = np.concatenate([np.zeros(1, np.int64), np.cumsum(grown)])
    masked_before = np.searchsorted([find.end for find in finds], messages.ends, side="right")
    return replace(messages, text=b"".join(pieces), ends=messages.ends + shifts[masked_before])
