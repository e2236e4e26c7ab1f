"""MinHash signatures of all conversations, in a file, and their bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import ColumnFile, pread, release_pages, slices
from gemfit.data.compiled import njit, njit_helper
from gemfit.data.dedup.groups import HALF, Indices
from gemfit.data.hash_constants import MURMUR_MIX_1

RECALL = 0.98
"""Least probability that a pair exactly at the threshold becomes a candidate."""


class Signatures:
    """MinHash signatures of conversations on disk, with the keys of their LSH bands; close them at the end.

    num_hashes: values per signature; 0 if near-duplicates are ignored, and nothing is stored.
    """

    def __init__(self, num_hashes: int, threshold: float, folder: Path | None = None) -> None:
        self.num_hashes = num_hashes
        self.min_equal = _min_equal_hashes(threshold, num_hashes)
        self.width = band_width(num_hashes, threshold)
        self.values = ColumnFile(folder, np.uint32, num_hashes)
        """(conversations, num_hashes)"""
        self._bands = [ColumnFile(folder, np.uint64) for _ in range(num_hashes // self.width)]

    def __len__(self) -> int:
        return len(self.values)

    def append(self, values: NDArray[np.uint32]) -> None:
        """Add the signatures of some conversations: (conversations, num_hashes)."""
        self.values.append(values)
        for number, band in enumerate(self._bands):
            band.append(_band_keys(values, number * self.width, (number + 1) * self.width))

    def band(self, number: int, order: Indices) -> NDArray[np.uint64]:
        """Keys of a band of the conversations in ``order``: (order,)."""
        keys = self._bands[number].mapped()
        found = np.empty(len(order), np.uint64)
        for here in slices(len(order)):
            found[here] = keys[order[here]]
        release_pages(keys)
        return found

    @property
    def num_bands(self) -> int:
        """Bands of each signature."""
        return len(self._bands)

    def close(self) -> None:
        """Close and delete the files."""
        for column in (self.values, *self._bands):
            column.close()


def band_width(num_hashes: int, threshold: float) -> int:
    """The widest band that finds a pair at the threshold with a probability of ``RECALL``."""
    for width in range(num_hashes // 4, 1, -1):
        if 1 - (1 - threshold**width) ** (num_hashes // width) >= RECALL:
            return width
    return 1


def _min_equal_hashes(threshold: float, num_hashes: int) -> int:
    """Equal values of two signatures whose similarity is ``threshold``."""
    return int(np.ceil(threshold * num_hashes - 1e-9))


@njit
def _band_keys(signatures: Any, start: int, stop: int) -> Any:
    keys = np.empty(len(signatures), np.uint64)
    for at in range(len(signatures)):
        key = np.uint64(0)
        for column in range(start, stop):
            key = (key ^ np.uint64(signatures[at, column])) * MURMUR_MIX_1
            key ^= key >> HALF
        keys[at] = key
    return keys


@njit
def read_signature(descriptor: int, index: int, into: Any) -> None:
    """Read the signature of one conversation into ``into``."""
    size = 4 * len(into)
    offset = np.int64(size) * np.int64(index)
    if pread(descriptor, np.uintp(into.ctypes.data), np.uint64(size), offset) != size:
        raise OSError("a signature could not be read back from the cache's disk")


@njit_helper
def are_near_duplicates(one: Any, other: Any, min_equal: int) -> bool:
    equal = 0
    for index in range(len(one)):
        equal += one[index] == other[index]
    return equal >= min_equal
