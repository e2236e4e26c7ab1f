"""PII scan: find and mask e-mail addresses, phone, payment card and bank account numbers.

Finds: e-mail addresses (``email-validator``'s syntax, no reserved domain); phone numbers with
their country code, and North American ones in groups of 3, 3 and 4 (``phonenumbers``, valid ones only);
payment card numbers of a known issuer with a valid Luhn checksum, valid IBANs (``python-stdnum``).
Does not find: names, postal addresses, national phone numbers of other countries, and numbers in words,
spelled out or in digits other than ASCII. It prefers false negatives: numbers next to a word, a path, a
version or a decimal point are ignored, and so are credentials (`user:…`) in a URL.
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
"""Suffixes of file names such as `icon@2x.png`, which are not top-level domains."""
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


class PiiMatch(NamedTuple):
    """One occurrence of PII, as a byte range of the text."""

    start: int
    end: int
    kind: str


def scan_pii(messages: Messages, action: Literal["count", "mask"]) -> tuple[Messages, dict[str, int]]:
    """Count PII by kind; ``mask`` replaces it by `[EMAIL]`, `[PHONE]`, `[CARD]` or `[IBAN]`.

    All other bytes stay. Content digests are computed from the returned messages.
    """
    matches = list(find_pii(messages))
    counts = dict(Counter(pii.kind for pii in matches))
    if action == "count" or not matches:
        return messages, counts
    return _masked(messages, matches), counts


def find_pii(messages: Messages) -> Iterator[PiiMatch]:
    """All PII, in the order of the text and without overlaps."""
    candidates = find_candidates(messages.text, messages.ends)
    # The content of each candidate; empty contents have none.
    content = np.searchsorted(messages.ends, [start for _, start, _ in candidates], side="right")
    low = np.concatenate([np.zeros(1, np.int64), messages.ends])[content]
    bounds = zip(low.tolist(), messages.ends[content].tolist(), strict=True)
    done = 0
    for (kind, start, end), (low_end, high_end) in zip(candidates, bounds, strict=True):
        for pii in _CHECKS[kind](messages.text, start, end, low_end, high_end):
            if pii.start >= done:
                done = pii.end
                yield pii


def _emails(text: bytes, start: int, end: int, low: int, high: int) -> Iterator[PiiMatch]:
    for match in ADDRESS.finditer(text, start, end):
        suffix = match[0].rpartition(b".")[2].lower()
        if suffix in _FILE_SUFFIXES or _is_code(text, match.start(), match.end(), low, high):
            continue
        try:
            validate_email(match[0].decode(), check_deliverability=False)
        except EmailNotValidError:
            continue
        yield PiiMatch(match.start(), match.end(), "email")


def _is_code(text: bytes, start: int, end: int, low: int, high: int) -> bool:
    """`git@host:path`, `https://user:word@host`, or a product of matrices such as `a@b.dot(c)`."""
    after = text[end : min(end + 2, high)]
    if after[:1] in (b"(", b"[", b"=") or (after[:1] == b":" and not after[1:].isspace() and after[1:]):
        return True
    before = text[max(low, start - 80) : start]
    return (
        before[-1:] in (b":", b"/") and b"://" in before[max(before.rfind(b" "), before.rfind(b"\n")) + 1 :]
    )


def _numbers(text: bytes, start: int, end: int, low: int, high: int) -> Iterator[PiiMatch]:
    if text[start] == ord("+"):
        yield from _phones(text, start, end, low, region=None)
        return
    if _is_part_of_word(text, start, end, low, high):
        return
    number = text[start:end]
    for match in _CARD.finditer(number):
        if luhn.is_valid(re.sub(rb"\D", b"", match[0]).decode()):
            yield PiiMatch(start + match.start(), start + match.end(), "card")
    for match in _NORTH_AMERICAN.finditer(number):
        yield from _phones(text, start + match.start(), start + match.end(), low, region="US")


def _is_part_of_word(text: bytes, start: int, end: int, low: int, high: int) -> bool:
    """Whether digits are part of a word, a path, a version, an identifier or a decimal."""
    before, after = text[max(low, start - 1) : start], text[end : min(end + 1, high)]
    if before.isalnum() or after.isalnum() or after in (b"_", b"/"):
        return True
    return before in (b".", b"-", b"/", b",") and text[max(low, start - 2) : start - 1].isalnum()


def _phones(text: bytes, start: int, end: int, low: int, region: str | None) -> Iterator[PiiMatch]:
    # After a letter, digit or bracket, `+` is a sum.
    if start > low and text[start] == ord("+") and re.match(rb"[\w)\]]", text[start - 1 : start]):
        return
    for match in PhoneNumberMatcher(text[start:end].decode(), region, Leniency.VALID):
        yield PiiMatch(start + match.start, start + match.end, "phone")


def _ibans(text: bytes, start: int, end: int, low: int, high: int) -> Iterator[PiiMatch]:
    match = _IBAN.match(text, start, end)
    if match and iban.is_valid(match[0].decode()):
        yield PiiMatch(match.start(), match.end(), "iban")


Check = Callable[[bytes, int, int, int, int], Iterator[PiiMatch]]
_CHECKS: tuple[Check, ...] = (_emails, _numbers, _ibans)
"""By kind of the candidate. Arguments: the text, the bounds of the candidate, the bounds of its content."""


def _masked(messages: Messages, matches: list[PiiMatch]) -> Messages:
    parts, at = [], 0
    for pii in matches:
        parts += [messages.text[at : pii.start], _MASKS[pii.kind]]
        at = pii.end
    parts.append(messages.text[at:])
    grown = np.array(
        [len(_MASKS[pii.kind]) - (pii.end - pii.start) for pii in matches],
        np.int64,
    )
    shifts = np.concatenate([np.zeros(1, np.int64), np.cumsum(grown)])
    masked_before = np.searchsorted([pii.end for pii in matches], messages.ends, side="right")
    return replace(messages, text=b"".join(parts), ends=messages.ends + shifts[masked_before])
