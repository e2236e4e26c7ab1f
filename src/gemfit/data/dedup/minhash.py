"""MinHash signatures of conversations, for near-duplicate detection by ``lsh``.

The set of a conversation holds the shingles of five tokens of each of its messages (a shorter message is
one shingle), without system messages, because many conversations share one. ``rensa`` makes the
signatures: the share of equal values estimates the Jaccard similarity of two sets, with a standard
deviation of 0.05 (64 values) or 0.03 (128) at a similarity of 0.8. So some pairs just above the threshold
are missed (at 0.85 and a threshold of 0.8 a tenth with 64 values, 1 % with 128), and some just below it
are found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import rensa
from numpy.typing import NDArray

from gemfit.data.compiled import njit
from gemfit.data.hash_constants import GOLDEN_RATIO, MURMUR_MIX_1
from gemfit.data.jsonl.line_settings import ROLES

NUM_HASHES = {"group": 64, "drop": 128}
"""Values per signature: conversations that are to be dropped are compared with twice the precision."""
SHINGLE = 5
"""Tokens per shingle."""
_SEED = 1
_SYSTEM = ROLES.index("system")
_HALF = np.uint64(32)


def signatures(
    ids: NDArray[np.uint32],
    ends: NDArray[np.int64],
    last: NDArray[np.int64],
    roles: NDArray[np.uint8],
    num_hashes: int = NUM_HASHES["group"],
) -> NDArray[np.uint32]:
    """MinHash of each conversation: (conversations, ``num_hashes``).

    ids: tokens of all contents. ends: (messages,), where each content ends in ids. last: (conversations,),
    messages up to and with the last of each. roles: (messages,), as in ``Messages``.
    """
    hashes, edges = _shingles(ids, ends, last, roles)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, edges, num_hashes, _SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(last), num_hashes)


@njit
def _shingles(ids: Any, ends: Any, last: Any, roles: Any) -> Any:
    """Hashes of all shingles, and the offsets of each conversation's."""
    hashes = np.empty(len(ids), np.uint64)
    edges = np.zeros(len(last) + 1, np.uint64)
    count = 0
    message = 0
    for conversation in range(len(last)):
        while message < last[conversation]:
            if roles[message] != _SYSTEM:
                start = ends[message - 1] if message else 0
                count = _hash_shingles(ids[start : ends[message]], hashes, count)
            message += 1
        edges[conversation + 1] = count
    return hashes[:count], edges


@njit
def _hash_shingles(ids: Any, hashes: Any, count: int) -> int:
    """Hash each run of ``SHINGLE`` ids, or all of a shorter message; the number of hashes so far."""
    leaving = np.uint64(1)
    for _ in range(SHINGLE):
        leaving *= GOLDEN_RATIO
    rolling = np.uint64(0)
    for at in range(len(ids)):
        # Ids count from 1 here, so that runs of zeros of different lengths differ.
        rolling = rolling * GOLDEN_RATIO + np.uint64(ids[at]) + np.uint64(1)
        if at >= SHINGLE:
            rolling -= leaving * (np.uint64(ids[at - SHINGLE]) + np.uint64(1))
        if at >= SHINGLE - 1 or at == len(ids) - 1:
            mixed = (rolling ^ (rolling >> _HALF)) * MURMUR_MIX_1
            hashes[count] = mixed ^ (mixed >> _HALF)
            count += 1
    return count
