"""Decide what every row holds, from the columns of all conversations at once.

Conversations are taken in the order of their digests, so the rows depend neither on the order of the
input nor on which process made the blocks. Rows are put into an order drawn from their number alone,
because best fit leaves them sorted by length. Memory for a million conversations of 1.6 million fragments:
120 MB at its peak, 25 MB at the end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.build.conversation_table import MAX_FRAGMENTS, ConversationTable
from gemfit.data.build.shards import SplitPlan
from gemfit.data.column_file import slices
from gemfit.data.compiled import njit
from gemfit.data.filter.selection import Selection
from gemfit.data.jsonl.message_batch import Ints
from gemfit.data.pack.shuffle import rows_at
from gemfit.data.packing.chunk_packing import Fragments, pack_chunks
from gemfit.errors import UserError

_ORDER_SEED = 0x67656D
SPLITS = ("train", "validation")
"""By their numbers in ``Selection.split``."""


def plan_split(
    table: ConversationTable, selection: Selection, split: int, seq_len: int, *, tight: bool
) -> SplitPlan:
    """The rows of one split (an index into ``SPLITS``); ``tight`` as of ``pack_chunks``."""
    numbers = np.flatnonzero(selection.split[selection.order] == split).astype(np.int32)
    fragments, fitted, heads = _fragments_of(table, selection, numbers)
    packed = pack_chunks(fitted, seq_len, tight=tight)
    del fitted
    chunks, row_ends = _permuted(packed.row, order_rows(int(packed.row[-1]) + 1 if len(packed.row) else 0))
    document, first = np.empty(len(chunks), np.int32), np.empty(len(chunks), np.int32)
    for here in slices(len(chunks)):
        begin = packed.first[chunks[here]]
        document[here] = numbers[np.searchsorted(heads, begin, "right") - 1]
        first[here] = fragments[begin]
    del fragments, heads
    return SplitPlan(
        name=SPLITS[split],
        first=first,
        num_fragments=packed.num_fragments[chunks],
        lengths=packed.lengths[chunks],
        document=document,
        row_ends=row_ends,
    )


def order_rows(rows: int) -> Ints:
    """Which row comes at each place: (rows,), a permutation fixed by their number alone."""
    order = np.empty(rows, np.int32)
    for here in slices(rows):
        order[here] = rows_at(np.arange(here.start, here.stop), seed=_ORDER_SEED, epoch=rows, rows=rows)
    return order


def _fragments_of(
    table: ConversationTable, selection: Selection, numbers: Ints
) -> tuple[Ints, Fragments, Ints]:
    """The fragments of conversations, each as often as it is copied, one conversation after another.

    numbers: (chosen,), in canonical order. Returns the number of each fragment among all, what rows are made
    of, and where each conversation begins: (chosen,).
    """
    chosen = selection.order[numbers]
    copies = selection.copies[chosen]
    begin = table.fragment_ends[chosen - 1]
    begin[chosen == 0] = 0
    ends = np.cumsum((table.fragment_ends[chosen] - begin) * copies, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total > MAX_FRAGMENTS:
        raise UserError(
            f"data: {total:,} fragments of conversations, each as often as its weight says, are more than "
            f"{MAX_FRAGMENTS:,}; lower `weight`, or make several packs"
        )
    heads = np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])[:-1]
    # Columns are read in the order that they have on disk, and written to where they are wanted.
    wanted = np.full(len(table), -1, np.int32)
    wanted[chosen] = heads
    found = np.empty(total, np.int32)
    fragments = Fragments(np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.bool_))
    for here in table.slices():
        ends_here = np.asarray(table.fragment_ends[here])
        start = int(table.fragment_ends[here.start - 1]) if here.start else 0
        own = np.asarray(table.fragments[start : ends_here[-1]])
        _scatter(own, start, ends_here, wanted[here], selection.copies[here], found, *fragments)
    return found, fragments, heads


@njit
def _scatter(fragments, start, ends, wanted, copies, found, lengths, context, continues):  # type: ignore[no-untyped-def]
    """Write the fragments of some conversations where they are wanted; ``start`` numbers the first."""
    number = start
    for conversation in range(len(ends)):
        begin, at = number, wanted[conversation]
        number = ends[conversation]
        if at < 0:
            continue
        for _ in range(copies[conversation]):
            for index in range(begin, number):
                fragment = fragments[index - start]
                found[at], lengths[at], context[at], continues[at] = (
                    index,
                    fragment["length"],
                    fragment["context"],
                    fragment["continues"],
                )
                at += 1


def _permuted(row: Ints, order: Ints) -> tuple[Ints, NDArray[np.int64]]:
    """Chunks in the final order of their rows, and where those of each end: (rows + 1,).

    row: (chunks,), not decreasing. order: (rows,), the row at each place.
    """
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    chunks = np.argsort(place[row], kind="stable").astype(np.int32)
    counts = np.bincount(row, minlength=len(order))[order]
    return chunks, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
