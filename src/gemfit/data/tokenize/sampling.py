"""Sampling of texts by a hash of their content, compiled: 0.3 ns per byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.compiled import njit
from gemfit.data.hash_constants import GOLDEN_RATIO
from gemfit.data.tokenize.protocol import Ends

_32 = np.uint64(32)


def sample_texts(text: bytes, ends: Ends, one_in: int) -> NDArray[np.int64]:
    """Indices of about one in ``one_in`` texts; the choice depends on the text only, not on its position."""
    data = np.frombuffer(text, np.uint8)
    # Eight bytes from every position on, without a copy.
    eights = np.ndarray((max(len(data) - 7, 0),), np.dtype("<u8"), buffer=text, strides=(1,))
    return np.flatnonzero(_hash_texts(data, eights, ends) % np.uint64(one_in) == 0)


@njit
def _hash_texts(data: NDArray[np.uint8], eights: NDArray[np.uint64], ends: Ends) -> NDArray[np.uint64]:
    hashes = np.empty(ends.shape[0], np.uint64)
    position = 0
    for index in range(ends.shape[0]):
        end = ends[index]
        mixed = np.uint64(end - position) * GOLDEN_RATIO
        while position + 8 <= end:
            mixed = (mixed ^ eights[position]) * GOLDEN_RATIO
            mixed ^= mixed >> _32
            position += 8
        while position < end:
            mixed = (mixed ^ np.uint64(data[position])) * GOLDEN_RATIO
            mixed ^= mixed >> _32
            position += 1
        hashes[index] = mixed
    return hashes
