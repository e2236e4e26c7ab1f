"""A word cache before an engine: texts are cut into words, and only words not seen yet are encoded.

Exact where ``cuts`` proves it, and there only. It keeps words of up to 24 bytes in ``CAPACITY`` rows, and
longer ones, such as code has with its indentation, in an eighth as many; up to 8 ids each. When three
quarters of either are taken it is emptied and learns again, so that what it holds follows the text. What it
holds never changes what it answers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemfit.data.encode.cuts import Cuts, find_cuts
from gemfit.data.encode.encoder import Encoder, Ends, Ids, Unsuited
from gemfit.data.encode.tokenizer_json import TokenizerJson
from gemfit.data.encode.word_table import LONG_ROW, ROW, count_ids, fill_holes, find_words, learn_words

CAPACITY = 2**19
"""Rows for short words, a power of two: 32 MiB, and 8 MiB for long ones, touched as they are used."""

CHUNK_BYTES = 4 * 2**20
"""Text looked at in one go: buffers stay small, and the engine is asked seldom."""


@dataclass(frozen=True, slots=True, eq=False)
class WordCache:
    """Words known, and the engine that is asked for others."""

    behind: Encoder
    cuts: Cuts = field(repr=False)
    table: NDArray[np.uint64] = field(repr=False)
    """Flat; see ``word_table``."""
    long_from: int
    room: NDArray[np.int64]
    """(2,): how many short and long words it has room for; 0 empties it."""

    @property
    def name(self) -> str:
        return f"word cache + {self.behind.name}"

    def encode(self, text: bytes, ends: Ends) -> tuple[Ids, Ends]:
        data = np.frombuffer(text, np.uint8)
        ids, stops, total = [], [], 0
        for first, last, start, stop in _chunks(ends):
            found, found_stops = self._encode_chunk(data[start:stop], ends[first:last] - start)
            ids.append(found)
            stops.append(found_stops + total)
            total += len(found)
        if not ids:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        return np.concatenate(ids), np.concatenate(stops)

    def _encode_chunk(self, data: NDArray[np.uint8], ends: Ends) -> tuple[Ids, Ends]:
        if not self.room.all():
            self.table[:] = 0
            self.room[:] = _room(len(self.table), self.long_from)
        size = len(data)
        text = np.concatenate([data, np.zeros(8, np.uint8)])
        eights = np.ndarray((size + 1,), np.uint64, buffer=text, strides=(1,))
        known, missed = np.empty(size + 1, np.uint32), np.empty(size, np.uint8)
        hole_at, hole_miss, miss_ends, miss_rows = (np.empty(size, np.int64) for _ in range(4))
        stops, stop_holes = np.empty(len(ends), np.int64), np.empty(len(ends), np.int64)
        room = self.room.copy()
        # Should the engine raise, rows without ids are left: the table then counts as full, and is emptied.
        self.room[:] = 0
        num_ids, num_holes, num_misses = find_words(
            text, eights, ends, self.cuts, self.table, self.long_from, room,
            known, stops, stop_holes, hole_at, hole_miss, miss_ends, miss_rows, missed,
        )  # fmt: skip
        if num_misses:
            asked = miss_ends[:num_misses]
            ids, id_ends = self.behind.encode(missed[: asked[-1]].tobytes(), asked)
            learn_words(self.table, miss_rows[:num_misses], ids, id_ends)
            total = count_ids(num_ids, stops, stop_holes, hole_miss, id_ends)
            filled = np.empty(total, np.uint32)
            fill_holes(known[:num_ids], hole_at[:num_holes], hole_miss, ids, id_ends, filled)
        else:
            filled = known[:num_ids].copy()
        self.room[:] = room
        return filled, stops


def word_cache(tokenizer: TokenizerJson, behind: Encoder, capacity: int = CAPACITY) -> WordCache:
    """An empty cache before this engine; ``Unsuited`` where it is not proven to be exact."""
    if sys.byteorder != "little":
        raise Unsuited("this machine stores the high byte first")
    long_from = capacity * ROW
    table = _empty_table(long_from + max(capacity // 8, 2) * LONG_ROW)
    return WordCache(behind, find_cuts(tokenizer), table, long_from, _room(len(table), long_from))


def _empty_table(size: int) -> NDArray[np.uint64]:
    # Each row in one cache line or two, whatever address the memory begins at.
    memory = np.zeros(size + ROW, np.uint64)
    skip = -(memory.ctypes.data // 8) % ROW
    return memory[skip : skip + size]


def _room(size: int, long_from: int) -> NDArray[np.int64]:
    rows = np.array([long_from // ROW, (size - long_from) // LONG_ROW], np.int64)
    return rows * 3 // 4


def _chunks(ends: Ends) -> Iterator[tuple[int, int, int, int]]:
    """First and last text, and first and last byte, of whole texts of about ``CHUNK_BYTES``."""
    first, start = 0, 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, start + CHUNK_BYTES, side="right")))
        stop = int(ends[last - 1])
        yield first, last, start, stop
        first, start = last, stop
