"""Encode texts by the word cache, compiled: 2 to 4 ns per byte where every word is cached.

A word that is not cached is merged and inserted at once. Arrays are passed one by one, because compiled code
counts references to what it takes out of a tuple, for every word.
"""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit
from gemfit.data.tokenize.bpe.bpe_merge import merge_text
from gemfit.data.tokenize.bpe.word_ends import (
    SEGMENT,
    SPARSE,
    are_wide,
    find_word_ends,
    find_word_ends_by_chars,
)
from gemfit.data.tokenize.bpe.word_hash_table import (
    EMPTY,
    LONG_BYTES,
    UNCACHED,
    copy_ids,
    insert,
    long_row_of,
    prefetch_rows,
    row_from,
)

_0, _8 = np.uint64(0), np.uint64(8)


@njit
def encode_words(  # type: ignore[no-untyped-def]
    text, windows, ends, split_points, char_pairs, splittable_runs, masks, table, long_start, free_rows,
    capacities, word_ends, split_ends, rows, ids, stops,
    pairs, merged, ascii_ranks, ascii, byte_ids, byte_classes, trie, added_ids,
    symbols, ranks, previous, following, heap,
):  # fmt: skip
    """Split texts into words and write the ids of all; returns how many.

    ``windows[p]`` is the 8 bytes of ``text`` from ``p`` on, little-endian; ``text`` has ``PADDING`` bytes
    after its end. ``table`` is flat; long rows begin at ``long_start``. ``free_rows`` (2,) is the number of
    words that may be added to the rows and the long rows, and is counted down; where none is left before a
    text, the table is cleared and ``free_rows`` reset to ``capacities`` (2,). word_ends, split_ends, rows:
    (2 * SEGMENT,), buffers. ``ids`` has one element per byte and one more; ``stops`` (texts,) gets the number
    of ids up to the end of each text. Then follow the arrays of ``MergeTables`` and ``MergeBuffers``.
    """
    out, position = 0, 0
    for index in range(ends.shape[0]):
        end = ends[index]
        if not (free_rows[0] and free_rows[1]):
            table[:] = _0
            free_rows[:] = capacities
        while position < end:
            limit = min(end, position + SEGMENT)
            count = find_word_ends(text, position, limit, end, split_points, word_ends)
            if count * SPARSE < limit - position and (count == 0 or are_wide(windows, position, limit)):
                count = find_word_ends_by_chars(
                    text, windows, position, limit, end, split_points, char_pairs, word_ends
                )
            count = prefetch_rows(
                table, long_start, windows, masks, splittable_runs, position, word_ends, count, split_ends,
                rows,
            )  # fmt: skip
            for number in range(count):
                start, position = position, split_ends[number]
                row, size = rows[number], position - start
                if row >= 0:
                    row = row_from(table, long_start, windows, masks, row, start, size)
                elif size <= LONG_BYTES:
                    row = long_row_of(table, long_start, windows, start, size)
                found = table[row] >> _8 if row >= 0 else UNCACHED
                if found != EMPTY and found != UNCACHED:
                    out += copy_ids(table, row, np.int64(found), ids, out)
                    continue
                stop = merge_text(
                    text, start, position, ids, out, pairs, merged, ascii_ranks, ascii, byte_ids,
                    byte_classes, trie, added_ids, symbols, ranks, previous, following, heap,
                )  # fmt: skip
                if found == EMPTY:
                    insert(table, row, windows, start, size, ids, out, stop, free_rows)
                out = stop
        stops[index] = out
    return out
