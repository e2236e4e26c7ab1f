"""Multipliers of the 64-bit hash functions of numba kernels and numpy code: golden ratio and MurmurHash3.

Packs, signatures and caches depend on them, so their values may not change.
"""

from __future__ import annotations

import numpy as np

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, made odd: Fibonacci hashing."""
MURMUR_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
MURMUR_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
"""With ``MURMUR_MIX_1`` the multipliers of MurmurHash3's 64-bit finalizer."""
