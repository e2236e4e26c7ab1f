"""Mixture weights: copies of each conversation in an epoch, drawn by content and seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.hash_constants import MURMUR_MIX_1, MURMUR_MIX_2

Draws = NDArray[np.uint64]


def copies_by_weight(digests: Draws, weights: NDArray[np.float64], seed: int) -> NDArray[np.int32]:
    """The integer part of each weight, plus one with the probability of its fraction: (conversations,).

    digests: (conversations, 2). weights: (conversations,), that of its source. Equal contents draw
    equally, whatever their position.
    """
    whole = np.floor(weights)
    salt = mix(np.array([seed], np.uint64))
    draws = mix(digests[:, 0] ^ mix(digests[:, 1] ^ salt))
    # A float holds 53 bits.
    shares = (draws >> np.uint64(11)) / np.float64(2**53)
    return (whole + (shares < weights - whole)).astype(np.int32)


def mix(values: Draws) -> Draws:
    """MurmurHash3's 64-bit finalizer: a bijection in which each bit depends on each bit of the value."""
    mixed = values ^ (values >> np.uint64(33))
    mixed = mixed * MURMUR_MIX_1
    mixed = mixed ^ (mixed >> np.uint64(33))
    mixed = mixed * MURMUR_MIX_2
    return mixed ^ (mixed >> np.uint64(33))
