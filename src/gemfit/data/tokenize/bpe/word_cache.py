"""A word cache before merging: texts are cut into words, and only words not seen yet are merged.

Exact where ``cuts`` proves it, and there only. It keeps words of up to 24 bytes in ``CAPACITY`` rows, and
longer ones, such as code has with its indentation, in an eighth as many; up to 8 ids each. When three
quarters of either are taken it is emptied and learns again, so that what it holds follows the text. What it
holds never changes what it answers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.bpe.bpe_merge import Merges, make_merge_buffers
from gemfit.data.tokenize.bpe.bpe_tables import make_merges
from gemfit.data.tokenize.bpe.char_pairs import CharPairs
from gemfit.data.tokenize.bpe.pretokenize_proof import Cuts, find_char_pairs, find_cuts
from gemfit.data.tokenize.bpe.whitespace_proof import find_runs
from gemfit.data.tokenize.bpe.word_hash_table import LONG_ROW, MASKS, PADDING, ROW, SEGMENT, encode_words
from gemfit.data.tokenize.protocol import Ends, Ids, Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson

CAPACITY = 2**19
"""Rows for short words, a power of two: 32 MiB, and 8 MiB for long ones, touched as they are used."""


@dataclass(frozen=True, slots=True, eq=False)
class WordCache:
    """Words known, and how others are merged."""

    merges: Merges = field(repr=False)
    cuts: Cuts = field(repr=False)
    together: CharPairs = field(repr=False)
    runs: NDArray[np.bool_] = field(repr=False)
    """See ``space_runs``."""
    table: NDArray[np.uint64] = field(repr=False)
    """Flat; see ``word_table``."""
    long_from: int
    room: NDArray[np.int64]
    """(2,): how many short and long words it has room for; 0 empties it."""
    name: str = "word cache"

    def encode(self, text: bytes, ends: Ends) -> tuple[Ids, Ends]:
        padded = np.frombuffer(text + bytes(PADDING), np.uint8)
        eights = np.ndarray((len(padded) - 7,), np.uint64, buffer=padded, strides=(1,))
        ids, stops = np.empty(len(text) + 1, np.uint32), np.empty(len(ends), np.int64)
        edges, words, rows = (np.empty(2 * SEGMENT, np.int64) for _ in range(3))
        longest = int(np.diff(ends, prepend=0).max(initial=0))
        count = encode_words(
            padded, eights, ends, self.cuts, self.together, self.runs, MASKS, self.table, self.long_from,
            self.room, _room(len(self.table), self.long_from), edges, words, rows, ids, stops,
            *self.merges, *make_merge_buffers(longest),
        )  # fmt: skip
        return ids[:count], stops


def word_cache(tokenizer: TokenizerJson, capacity: int = CAPACITY) -> WordCache:
    """An empty cache for a tokenizer; ``Unsuited`` where it is not proven to be exact."""
    if sys.byteorder != "little":
        raise Unsuited("this machine stores the high byte first")
    merges, cuts, together = make_merges(tokenizer), find_cuts(tokenizer), find_char_pairs(tokenizer)
    return make_word_cache(merges, cuts, together, find_runs(tokenizer), capacity)


def make_word_cache(
    merges: Merges, cuts: Cuts, together: CharPairs, runs: NDArray[np.bool_], capacity: int = CAPACITY
) -> WordCache:
    """An empty cache on these tables."""
    long_from = capacity * ROW
    table = _empty_table(long_from + max(capacity // 8, 2) * LONG_ROW)
    return WordCache(merges, cuts, together, runs, table, long_from, _room(len(table), long_from))


def _empty_table(size: int) -> NDArray[np.uint64]:
    # Each row in one cache line or two, whatever address the memory begins at.
    memory = np.zeros(size + ROW, np.uint64)
    skip = -(memory.ctypes.data // 8) % ROW
    return memory[skip : skip + size]


def _room(size: int, long_from: int) -> NDArray[np.int64]:
    rows = np.array([long_from // ROW, (size - long_from) // LONG_ROW], np.int64)
    return rows * 3 // 4
