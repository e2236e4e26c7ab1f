"""Pack in bounded memory: a pool of rows, of which the emptier half waits for what comes next.

For inputs that never end, and beyond ``AT_ONCE`` documents. A document is packed about twice; the pool
holds 20 bytes a document. Rows then depend on the order of the input, and a few more are needed than
with all lengths at once: benchmarks/packers_beside.md has the excess for pools of some sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.packing.best_fit import Ints, pack

AT_ONCE = 2**27
"""Documents that are packed at once; more go through windows."""
POOL_ROWS = 4096


class Window(NamedTuple):
    """Finished rows, fullest first."""

    documents: NDArray[np.int64]
    """(documents,): numbers of documents, counted over the whole input from 0; by row."""
    rows: Ints
    """(documents,): the row of each within the window, from 0 without gaps; not decreasing."""


class _Pool(NamedTuple):
    """Documents that wait for their row."""

    lengths: Ints
    numbers: NDArray[np.int64]

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> _Pool:
        return _Pool(self.lengths[chosen], self.numbers[chosen])

    def join(self, later: _Pool) -> _Pool:
        lengths = np.concatenate([self.lengths, later.lengths])
        return _Pool(lengths, np.concatenate([self.numbers, later.numbers]))


def pack_windows(chunks: Iterable[Ints], seq_len: int, pool_rows: int = POOL_ROWS) -> Iterator[Window]:
    """Finished rows of documents whose lengths come in chunks of any size, as soon as they are chosen.

    At most the documents of some ``pool_rows`` rows (and one chunk) are in hand; every document is in
    exactly one row of exactly one window.
    """
    pool, first = _Pool(np.empty(0, np.int32), np.empty(0, np.int64)), 0
    for chunk in _slices(chunks, pool_rows):
        numbers = np.arange(first, first + len(chunk))
        first += len(chunk)
        pool = pool.join(_Pool(chunk, numbers))
        while (fits := _until(pool.lengths, pool_rows * seq_len)) < len(pool.lengths):
            here, later = pool.take(np.arange(fits)), pool.take(np.arange(fits, len(pool.lengths)))
            window, waiting = _fuller_half(here, seq_len)
            yield window
            pool = waiting.join(later)
    if len(pool.lengths):
        yield _window(pool, pack(pool.lengths, seq_len))


def pack_any(lengths: Ints, seq_len: int, free: Ints | None = None, at_once: int = AT_ONCE) -> Ints:
    """As ``pack``, with the memory of some ``at_once`` documents however many there are.

    Places in rows that are there already (``free``) go to the first ``at_once`` documents.
    """
    if len(lengths) <= at_once:
        return pack(lengths, seq_len, free)
    rows = np.empty(len(lengths), np.int32)
    done = num_rows = 0
    if free is not None:
        done = at_once
        rows[:done] = pack(lengths[:done], seq_len, free)
        num_rows = max(len(free), int(rows[:done].max()) + 1)
    pool_rows = max(1, int(at_once * lengths.mean(dtype=np.float64) / seq_len))
    chunks = (lengths[start : start + at_once] for start in range(done, len(lengths), at_once))
    for window in pack_windows(chunks, seq_len, pool_rows):
        rows[done + window.documents] = num_rows + window.rows
        num_rows += int(window.rows[-1]) + 1
    return rows


def _slices(chunks: Iterable[Ints], most: int) -> Iterator[Ints]:
    """The same lengths in chunks of at most ``most``, so that none fills the pool more than once."""
    for chunk in chunks:
        yield from (chunk[start : start + most] for start in range(0, len(chunk), most))


def _until(lengths: Ints, tokens: int) -> int:
    """How many documents from the first on hold ``tokens``; at least one."""
    return int(np.searchsorted(np.cumsum(lengths, dtype=np.int64), tokens)) + 1


def _fuller_half(pool: _Pool, seq_len: int) -> tuple[Window, _Pool]:
    """Pack the pool; its fuller rows are done, the documents of the others wait on."""
    rows = pack(pool.lengths, seq_len)
    filled = np.bincount(rows, weights=pool.lengths)
    order = np.argsort(-filled, kind="stable")
    # rank[r]: how many rows are fuller than row r.
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    done = rank[rows] < max(1, len(order) // 2)
    return _window(pool.take(done), rank[rows[done]]), pool.take(~done)


def _window(pool: _Pool, rows: Ints) -> Window:
    order = np.argsort(rows, kind="stable")
    return Window(pool.numbers[order], rows[order])
