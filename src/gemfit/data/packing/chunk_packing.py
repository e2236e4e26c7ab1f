"""Merge fragments of overlong conversations into chunks so that rows come out full.

A conversation that fits into a row is one *fragment*. A longer one is a sequence of fragments, divided at
every position where a chunk may begin (see ``split_turns``); a *chunk* is any number of neighbouring
fragments. Two ways are tried, and the one with fewer rows is taken:

- longest chunks: each takes all fragments that fit, and the chunks are packed best-fit decreasing, with
  the fewest cuts;
- row by row: each row takes a chunk of the longest conversation left, then the chunk or whole
  conversation of highest gain in the remaining places. The gain is the tokens placed less the context
  that the next chunk has to repeat. Where that takes fewer rows, all these chunks are packed once more,
  best-fit decreasing.

Cost: tens of microseconds per row that holds a part of a long conversation; 50 bytes per fragment.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.packing.best_fit import pack
from gemfit.data.packing.row_fill import fill_rows, longest_chunks

FILL_WEIGHTS = (10, 3)
"""Repeated tokens that are accepted to fill one more place, where rows are to be full."""
MAX_EXTRA_ROWS = 0.01
"""Share of more rows up to which full rows are preferred to the fewest."""

Ints = NDArray[np.int32]


class Fragments(NamedTuple):
    """Fragments of all conversations, in input order. Each array: (fragments,)."""

    lengths: Ints
    """Tokens of a chunk of this fragment alone: context and body."""
    context: Ints
    """Repeated tokens in front of the body, needed only at the start of a chunk."""
    continues: NDArray[np.bool_]
    """True if the chunk of the fragment before it may continue with it."""


class PackedChunks(NamedTuple):
    """Chunks, by row and in input order within a row. Each array: (chunks,)."""

    first: Ints
    """Index of the first fragment of the chunk."""
    num_fragments: Ints
    """Fragments in the chunk."""
    lengths: Ints
    """Tokens of the chunk, the context of its first fragment included."""
    row: Ints
    """From 0, without gaps."""


def pack_chunks(fragments: Fragments, seq_len: int, *, tight: bool = False) -> PackedChunks:
    """Merge fragments into chunks and pack these into rows; every fragment is in exactly one chunk.

    ``tight`` fills rows to the last token at the price of more chunks, which repeat more context, if
    that takes at most ``MAX_EXTRA_ROWS`` more: for fragments that may end anywhere.
    """
    longest = pack_longest_chunks(fragments, seq_len)
    if not fragments.continues.any():
        return longest
    filled = _pack_row_by_row(fragments, seq_len, fill_weight=1)
    fewest = filled if filled.row[-1] < longest.row[-1] else longest
    if not tight:
        return fewest
    last_row = fewest.row[-1] * (1 + MAX_EXTRA_ROWS)
    fuller = (_pack_row_by_row(fragments, seq_len, weight) for weight in FILL_WEIGHTS)
    return next((chunks for chunks in fuller if chunks.row[-1] <= last_row), fewest)


def pack_longest_chunks(fragments: Fragments, seq_len: int) -> PackedChunks:
    """Chunks of as many fragments as fit into a row, packed best-fit decreasing."""
    starts, stops = _conversation_bounds(fragments.continues)
    bodies = fragments.lengths - fragments.context
    first, num_fragments = longest_chunks(fragments.lengths, bodies, starts, stops, seq_len)
    del bodies, starts, stops
    lengths = _chunk_lengths(fragments, first, num_fragments)
    return _sorted_by_row(fragments, first, num_fragments, pack(lengths, seq_len))


def _pack_row_by_row(fragments: Fragments, seq_len: int, fill_weight: int) -> PackedChunks:
    starts, stops = _conversation_bounds(fragments.continues)
    single = stops - starts == 1
    whole = starts[single]
    bodies = fragments.lengths - fragments.context
    long = np.flatnonzero(~single)
    totals = np.add.reduceat(bodies, starts, dtype=np.int64)[long]
    # Longest first, so that the last rows are filled from conversations that need few.
    long = long[np.argsort(-totals, kind="stable")]
    by_length = whole[np.argsort(fragments.lengths[whole], kind="stable")]
    first, num_fragments, row, free, used, ends = fill_rows(
        fragments.lengths, bodies, starts[long], stops[long], by_length, seq_len, fill_weight
    )
    left = np.sort(by_length[~used])
    first = np.concatenate([first, ends[0], left])
    num_fragments = np.concatenate([num_fragments, ends[1], np.ones_like(left)])
    lengths = _chunk_lengths(fragments, first, num_fragments)
    row = np.concatenate([row, pack(lengths[len(row) :], seq_len, free)])
    repacked = pack(lengths, seq_len)  # the chunks fill gaps that were left before they were made
    row = repacked if repacked.max() < row.max() else row
    return _sorted_by_row(fragments, first, num_fragments, row)


def _conversation_bounds(continues: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First fragment of each conversation, and the one after its last."""
    starts = np.flatnonzero(~continues).astype(np.int32)
    return starts, np.append(starts[1:], np.int32(len(continues)))[: len(starts)]


def _chunk_lengths(fragments: Fragments, first: Ints, num_fragments: Ints) -> Ints:
    """Tokens of each chunk: the bodies, and the context of its first fragment."""
    bodies = np.cumsum(fragments.lengths - fragments.context, dtype=np.int64)
    before = np.concatenate([np.zeros(1, np.int64), bodies])
    return (before[first + num_fragments] - before[first] + fragments.context[first]).astype(np.int32)


def _sorted_by_row(fragments: Fragments, first: Ints, num_fragments: Ints, row: Ints) -> PackedChunks:
    order = np.lexsort((first, row))
    first, num_fragments = first[order], num_fragments[order]
    return PackedChunks(first, num_fragments, _chunk_lengths(fragments, first, num_fragments), row[order])
