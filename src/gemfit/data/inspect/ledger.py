"""Token ledger of pack verification: every token of a conversation is in the rows as often as expected.

Memory: 48 bytes per conversation, and 12 bytes per chunk of a conversation in several chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit
from gemfit.data.inspect.pack_files import RowBatch

Counts = NDArray[np.int64]
Ints = NDArray[np.int32]


class Expected(NamedTuple):
    """Expected counts per document, from the table of conversations. Each array: (documents,)."""

    tokens: Ints
    """Tokens of the whole conversation."""
    left_out: Ints
    """Those in no row: cut off, or in chunks without a trained token."""
    trained: Ints
    """Trained tokens of each copy; an upper bound if tokens are cut off."""
    cut_off: Ints
    copies: Ints


class CountedSpan(NamedTuple):
    """Tokens of a conversation with a wrong number of occurrences in the rows."""

    document: int
    start: int
    stop: int
    times: int


class TokenLedger:
    """Adds up the tokens of each document over all rows."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.tokens = np.zeros(len(expected.tokens), np.int64)
        """(documents,): tokens in rows, without repeated tokens."""
        self.trained = np.zeros(len(expected.tokens), np.int64)
        self.repeated = np.zeros(len(expected.tokens), np.int64)
        self._whole = np.zeros(len(expected.tokens), np.int32)
        self._parts: list[tuple[Ints, Ints, Ints]] = []

    def add(self, batch: RowBatch, trained: NDArray[np.int32]) -> None:
        """Add the chunks of a batch, except those with an invalid document number (see ``row_check``)."""
        known = (batch.document >= 0) & (batch.document < len(self.tokens))
        document = batch.document[known]
        repeated = batch.repeated[known].astype(np.int64)
        start, body = batch.starts[known].astype(np.int64), batch.lengths[known] - repeated
        _add(self.tokens, document, body)
        _add(self.trained, document, trained[known].astype(np.int64))
        _add(self.repeated, document, repeated)
        whole = body == self.expected.tokens[document]
        _add(self._whole, document[whole], np.ones(int(whole.sum()), np.int32))
        parts = (document[~whole], start[~whole], (start + body)[~whole])
        self._parts.append(tuple(part.astype(np.int32) for part in parts))

    def wrong_trained_tokens(self) -> Iterator[tuple[int, str]]:
        """Documents with a wrong number of trained tokens, and the error."""
        copies = self.expected.copies.astype(np.int64)
        right = self.expected.trained * copies
        fewest = right - self.expected.cut_off * copies
        for document in np.flatnonzero((self.trained > right) | (self.trained < fewest)).tolist():
            trained = f"{self.trained[document]:,} of its tokens are trained in all rows"
            yield document, f"{trained}, expected {right[document]:,}"

    def miscounted_spans(self) -> tuple[list[CountedSpan], Counts]:
        """Spans with a wrong number of occurrences, and the missing tokens per document: (documents,).

        A span that is in no row is listed only if more tokens are missing than expected.
        """
        nothing = (np.empty(0, np.int32),) * 3
        columns = zip(*(self._parts or [nothing]), strict=True)
        document, start, stop = (np.concatenate(column) for column in columns)
        opened, closed = np.lexsort((start, document)), np.lexsort((stop, document))
        found, missing = _sweep(
            document[opened],
            start[opened],
            stop[closed],
            self.expected.tokens,
            self.expected.left_out,
            self.expected.copies,
            self._whole,
        )
        return [CountedSpan(*map(int, span)) for span in found], missing


def _add(sums: Counts | Ints, index: Counts, values: Counts | Ints) -> None:
    np.add.at(sums, index, values)


@njit
def _sweep(document, starts, stops, tokens, left_out, copies, whole):  # type: ignore[no-untyped-def]
    """Sweep over the begins and ends of each document's chunks and count the occurrences between them."""
    zero = np.int64(0)
    found = [(zero, zero, zero, zero) for _ in range(0)]
    missing = np.zeros(len(tokens), np.int64)
    low = 0
    for number in range(len(tokens)):
        high = low
        while high < len(document) and document[high] == number:
            high += 1
        position, depth, opened, closed = zero, np.int64(whole[number]), low, low
        gap = (zero, zero)
        while True:
            upto = np.int64(tokens[number])
            if opened < high:
                upto = min(upto, np.int64(starts[opened]))
            if closed < high:
                upto = min(upto, np.int64(stops[closed]))
            if upto > position:
                if depth == 0:
                    if missing[number] == 0:
                        gap = (position, upto)
                    missing[number] += upto - position
                elif depth != copies[number]:
                    found.append((np.int64(number), position, upto, depth))
                position = upto
            if opened < high and starts[opened] <= position:
                depth += 1
                opened += 1
            elif closed < high and stops[closed] <= position:
                depth -= 1
                closed += 1
            elif position >= tokens[number] or (opened == high and closed == high and upto <= position):
                break
        # Chunks without a trained token are in no row; nothing else may be missing.
        if missing[number] > left_out[number]:
            found.append((np.int64(number), gap[0], gap[1], zero))
        low = high
    return found, missing
