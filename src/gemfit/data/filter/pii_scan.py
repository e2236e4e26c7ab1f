"""PII scan, first pass: byte ranges that may hold an e-mail address, a number or an IBAN, by numpy.

Candidates are a superset of what ``pii`` accepts, each inside one content. Runs of digits are processed as
columns: less than 2 ms per MB of text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EMAIL, NUMBER, IBAN = 0, 1, 2
"""Kinds: around an `@`; digits grouped as in a phone or card number; two letters and two digits."""
MAX_EMAIL_BYTES, MAX_NUMBER_BYTES, MAX_IBAN_BYTES = 320, 64, 48
MIN_DIGITS, MIN_IBAN_REST = 8, 13

Candidate = tuple[int, int, int]
"""Kind, first byte, end."""
Offsets = NDArray[np.int64]
Mask = NDArray[np.bool_]

_MAILBOX = re.compile(rb"[A-Za-z0-9_.%+-]+")
_IBAN_REST = re.compile(rb"[A-Za-z0-9_ ]{%d,%d}" % (MIN_IBAN_REST, MAX_IBAN_BYTES))


def _table(members: bytes) -> Mask:
    table = np.zeros(256, np.bool_)
    table[list(members)] = True
    return table


_CAPITALS = bytes(range(65, 91))
_LETTER = _table(_CAPITALS + _CAPITALS.lower() + b"_")
_CAPITAL = _table(_CAPITALS)
_WORD = _table(_CAPITALS + _CAPITALS.lower() + b"_0123456789")
_IN_MAILBOX = _WORD | _table(b".%+-")
_SEPARATOR, _BRACKET = _table(b" .-()"), _table(b"()")


class DigitRuns(NamedTuple):
    """Runs of digits in contents. Each array: (runs,)."""

    starts: Offsets
    stops: Offsets
    low: Offsets
    """Start of the content of the run."""
    high: Offsets
    """End of the content of the run."""


def find_candidates(text: bytes, ends: Offsets) -> list[Candidate]:
    """SelectionInput in the order of the text. ends: (contents,), end of each content in ``text``."""
    data = np.frombuffer(text, np.uint8)
    runs = _runs(data, ends)
    lettered = (runs.starts > runs.low) & _LETTER[data[runs.starts - 1]]
    found = [
        *_emails(text, data, ends),
        *_numbers(data, runs, lettered),
        *_ibans(text, data, runs, lettered),
    ]
    return [candidate for _, candidate in sorted(found)]


def _runs(data: NDArray[np.uint8], ends: Offsets) -> DigitRuns:
    digit = (data - np.uint8(48)) < 10
    changes = np.flatnonzero(digit[1:] != digit[:-1]) + 1
    begins = int(digit[:1].any())
    starts = np.concatenate([np.zeros(begins, np.int64), changes[begins::2]])
    stops = np.concatenate([changes[1 - begins :: 2], len(data) + np.flatnonzero(digit[-1:])])
    inner = ends[(ends > 0) & (ends < len(data))]
    if len(cut := np.unique(inner[digit[inner - 1] & digit[inner]])):
        starts, stops = (np.sort(np.concatenate([edges, cut])) for edges in (starts, stops))
    counts = np.diff(np.searchsorted(starts, ends), prepend=0)  # of each content
    lows = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    return DigitRuns(starts, stops, np.repeat(lows, counts), np.repeat(ends, counts))


def _emails(text: bytes, data: NDArray[np.uint8], ends: Offsets) -> Iterator[tuple[int, Candidate]]:
    signs = np.flatnonzero(data == ord("@"))
    # Most signs, such as those of decorators in code, have a space next to them.
    signs = signs[(signs > 0) & (signs < len(data) - 1)]
    signs = signs[_IN_MAILBOX[data[signs - 1]] & _IN_MAILBOX[data[signs + 1]]]
    contents = np.searchsorted(ends, signs, "right")
    for at, content in zip(signs.tolist(), contents.tolist(), strict=True):
        low, high = int(ends[content - 1]) if content else 0, int(ends[content])
        # Reversed, because a search that ends at the sign would try every start.
        before = _MAILBOX.match(text[max(low, at - MAX_EMAIL_BYTES) : at][::-1])
        after = _MAILBOX.match(text, at + 1, min(high, at + MAX_EMAIL_BYTES))
        if before and after and b"." in text[at + 2 : max(at + 2, after.end() - 2)]:
            yield at, (EMAIL, at - len(before[0]), after.end())


def _numbers(data: NDArray[np.uint8], runs: DigitRuns, lettered: Mask) -> Iterator[tuple[int, Candidate]]:
    """Chains of runs with separators between them, where the runs' lengths are those of a number."""
    if not len(runs.starts):
        return
    lengths = runs.stops - runs.starts
    linked = _linked(data, runs, lettered)
    third = np.flatnonzero(linked[2:] & linked[1:-1]) + 2
    two, one, last = (lengths[third - back] for back in (2, 1, 0))
    phone = (two == 3) & (one == 3) & (last == 4)
    card = (two == 4) & ((one == 4) | (one == 6)) & (last >= 4)
    signed = ~linked & (runs.starts > runs.low) & (data[runs.starts - 1] == ord("+"))
    shaped = np.concatenate([third[phone | card], np.flatnonzero((lengths >= 14) | signed)])
    heads, tails = _chains(linked)
    digits = np.add.reduceat(lengths, heads)
    likely = np.unique(np.searchsorted(heads, shaped, "right") - 1)
    likely = likely[(digits[likely] >= MIN_DIGITS) & ~lettered[heads[likely]]]
    for head, tail in zip(heads[likely].tolist(), tails[likely].tolist(), strict=True):
        yield int(runs.starts[head]), (NUMBER, _first_byte(data, runs, head), int(runs.stops[tail]))


def _linked(data: NDArray[np.uint8], runs: DigitRuns, lettered: Mask) -> Mask:
    """Which runs continue the number of the run before: after a space, hyphen, dot or bracket."""
    gaps = runs.starts[1:] - runs.stops[:-1]
    near = np.flatnonzero((gaps == 1) | (gaps == 2))
    first, second = data[runs.stops[near]], data[runs.starts[near + 1] - 1]
    two = _SEPARATOR[second] & (_BRACKET[first] | (second == ord("(")))
    same = (runs.low[near + 1] == runs.low[near]) & ~lettered[near]
    linked = np.zeros(len(runs.starts), np.bool_)
    linked[near + 1] = _SEPARATOR[first] & ((gaps[near] == 1) | two) & same
    _cut_long_chains(data, runs, linked)
    return linked


def _chains(linked: Mask) -> tuple[Offsets, Offsets]:
    """The first and the last run of each chain."""
    heads = np.flatnonzero(~linked)
    return heads, np.append(heads[1:], len(linked)) - 1


def _cut_long_chains(data: NDArray[np.uint8], runs: DigitRuns, linked: Mask) -> None:
    """Cut chains, such as rows of a table, after ``MAX_NUMBER_BYTES`` into several."""
    heads, tails = _chains(linked)
    long = runs.stops[tails] - runs.starts[heads] > MAX_NUMBER_BYTES
    for head, tail in zip(heads[long].tolist(), tails[long].tolist(), strict=True):
        first = _first_byte(data, runs, head)
        for run in range(head + 1, tail + 1):
            if runs.starts[run] - first > MAX_NUMBER_BYTES:
                linked[run] = False
                first = _first_byte(data, runs, run)


def _first_byte(data: NDArray[np.uint8], runs: DigitRuns, head: int) -> int:
    """Start of a number: its first digit, or the bracket or plus sign before it."""
    first = int(runs.starts[head])
    return first - (first > runs.low[head] and data[first - 1] in b"(+")


def _ibans(
    text: bytes, data: NDArray[np.uint8], runs: DigitRuns, lettered: Mask
) -> Iterator[tuple[int, Candidate]]:
    """Two capitals at the start of a word, two digits, and the letters and digits of an IBAN."""
    after = np.flatnonzero(lettered & (runs.stops - runs.starts >= 2) & (runs.starts - runs.low >= 2))
    starts = runs.starts[after]
    capitals = _CAPITAL[data[starts - 1]] & _CAPITAL[data[starts - 2]]
    # At the first byte of the text, where ``starts`` is 2, index -1 is read and not used.
    word = (starts - runs.low[after] == 2) | ~_WORD[data[starts - 3]]
    for index in after[capitals & word].tolist():
        at = int(runs.starts[index])
        if rest := _IBAN_REST.match(text, at, int(runs.high[index])):
            yield at, (IBAN, at - 2, rest.end())
