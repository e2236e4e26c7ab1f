"""Put documents into rows of ``seq_len`` tokens: exact best fit, decreasing.

A bitmap of the free lengths that occur finds the tightest row at once, so a million documents take
some 20 ms. Documents are never cut here, and equal lengths keep their order: the result depends on
the lengths alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def pack(
    lengths: NDArray[np.int32], seq_len: int, free: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """The row of each document. lengths: (documents,), each from 1 to seq_len -> rows: (documents,).

    Rows are numbered from 0 without gaps, in the order in which their longest document opened them.
    ``free`` lists the places left in rows that are there already; new rows get the numbers after them.
    """
    if not len(lengths):
        return np.empty(0, np.int32)
    assert lengths.min() >= 1, "a document has tokens"
    assert lengths.max() <= seq_len, "a document longer than a row was to be split"
    started = np.empty(0, np.int32) if free is None else free.astype(np.int32)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return np.asarray(_best_fit(lengths.astype(np.int32), order, seq_len, started))


@njit(cache=True)
def _best_fit(
    lengths: NDArray[np.int32], order: NDArray[np.int64], seq_len: int, started: NDArray[np.int32]
) -> NDArray[np.int32]:
    rows = np.empty(len(lengths), np.int32)
    # newest[f]: the row with f free places that got there last, or -1; below[r]: the one before it.
    newest = np.full(seq_len + 1, -1, np.int32)
    below = np.empty(len(started) + len(lengths), np.int32)
    occurs = np.zeros(seq_len // 64 + 1, np.uint64)
    num_rows = len(started)
    for row, free in enumerate(started):
        below[row] = newest[free]
        newest[free] = row
        occurs[free >> 6] |= np.uint64(1) << np.uint64(free & 63)
    for document in order:
        length = lengths[document]
        free = _first_from(occurs, length, seq_len)
        if free < 0:
            row, free = num_rows, seq_len
            num_rows += 1
        else:
            row = newest[free]
            newest[free] = below[row]
            if newest[free] < 0:
                occurs[free >> 6] &= ~(np.uint64(1) << np.uint64(free & 63))
        rows[document] = row
        free -= length
        below[row] = newest[free]
        newest[free] = row
        occurs[free >> 6] |= np.uint64(1) << np.uint64(free & 63)
    return rows


@njit(cache=True)
def _first_from(bits: NDArray[np.uint64], start: int, stop: int) -> int:
    """The first set bit at ``start`` or later, or -1."""
    word = start >> 6
    rest = bits[word] >> np.uint64(start & 63) << np.uint64(start & 63)
    while not rest:
        word += 1
        if word > stop >> 6:
            return -1
        rest = bits[word]
    bit = word << 6
    while not rest & np.uint64(1):
        rest >>= np.uint64(1)
        bit += 1
    return bit
