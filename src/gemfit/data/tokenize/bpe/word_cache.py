"""BPE encoder with a word cache: texts are split into words, and only words not seen yet are merged.

Exact for tokenizers that pass the proofs (``pretokenize_proof``), and refused for others. The cache is a hash
table with ``CAPACITY`` rows for words of up to 24 bytes and an eighth as many for longer ones; up to 8 ids
each. When three quarters of either are used it is cleared and fills again, so that it follows the text. Its
contents never change a result.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.bpe.bpe_merge import MergeTables, make_merge_buffers
from gemfit.data.tokenize.bpe.bpe_tables import make_merge_tables
from gemfit.data.tokenize.bpe.char_pairs import CharPairs
from gemfit.data.tokenize.bpe.encode_words import encode_words
from gemfit.data.tokenize.bpe.pretokenize_proof import SplitPoints, find_char_pairs, find_split_points
from gemfit.data.tokenize.bpe.whitespace_proof import find_splittable_runs
from gemfit.data.tokenize.bpe.word_ends import SEGMENT
from gemfit.data.tokenize.bpe.word_hash_table import LONG_ROW, MASKS, PADDING, ROW
from gemfit.data.tokenize.protocol import Ends, Ids, Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson

CAPACITY = 2**19
"""Rows for short words, a power of two: 32 MiB, and 8 MiB for long ones; memory is used as they fill."""


@dataclass(frozen=True, slots=True, eq=False)
class WordCache:
    """The encoder: proofs, merge tables, and the hash table of words. Shapes in brackets."""

    merge_tables: MergeTables = field(repr=False)
    split_points: SplitPoints = field(repr=False)
    char_pairs: CharPairs = field(repr=False)
    splittable_runs: NDArray[np.bool_] = field(repr=False)
    """See ``whitespace_proof``."""
    table: NDArray[np.uint64] = field(repr=False)
    """Flat; see ``word_hash_table``."""
    long_start: int
    free_rows: NDArray[np.int64]
    """(2,): short and long words that can still be added; 0 clears the table."""
    name: str = "word cache"

    def encode(self, text: bytes, ends: Ends) -> tuple[Ids, Ends]:
        padded = np.frombuffer(text + bytes(PADDING), np.uint8)
        windows = np.ndarray((len(padded) - 7,), np.uint64, buffer=padded, strides=(1,))
        ids, stops = np.empty(len(text) + 1, np.uint32), np.empty(len(ends), np.int64)
        word_ends, split_ends, rows = (np.empty(2 * SEGMENT, np.int64) for _ in range(3))
        longest = int(np.diff(ends, prepend=0).max(initial=0))
        count = encode_words(
            padded, windows, ends, self.split_points, self.char_pairs, self.splittable_runs, MASKS,
            self.table, self.long_start, self.free_rows, _max_words(len(self.table), self.long_start),
            word_ends, split_ends, rows, ids, stops,
            *self.merge_tables, *make_merge_buffers(longest),
        )  # fmt: skip
        return ids[:count], stops


def word_cache(tokenizer: TokenizerJson, capacity: int = CAPACITY) -> WordCache:
    """An empty word cache for a tokenizer; ``Unsuited`` where it is not proven to be exact."""
    if sys.byteorder != "little":
        raise Unsuited("this machine is big-endian")
    return make_word_cache(
        make_merge_tables(tokenizer),
        find_split_points(tokenizer),
        find_char_pairs(tokenizer),
        find_splittable_runs(tokenizer),
        capacity,
    )


def make_word_cache(
    merge_tables: MergeTables,
    split_points: SplitPoints,
    char_pairs: CharPairs,
    splittable_runs: NDArray[np.bool_],
    capacity: int = CAPACITY,
) -> WordCache:
    """An empty word cache on these tables."""
    long_start = capacity * ROW
    table = _empty_table(long_start + max(capacity // 8, 2) * LONG_ROW)
    free_rows = _max_words(len(table), long_start)
    return WordCache(merge_tables, split_points, char_pairs, splittable_runs, table, long_start, free_rows)


def _empty_table(size: int) -> NDArray[np.uint64]:
    # Aligned, so that a row is one cache line or two.
    memory = np.zeros(size + ROW, np.uint64)
    skip = -(memory.ctypes.data // 8) % ROW
    return memory[skip : skip + size]


def _max_words(size: int, long_start: int) -> NDArray[np.int64]:
    """(2,): short and long words that a table holds before it is cleared."""
    rows = np.array([long_start // ROW, (size - long_start) // LONG_ROW], np.int64)
    return rows * 3 // 4
