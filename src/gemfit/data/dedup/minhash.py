"""MinHash signatures of conversations, by which those are found that are nearly the same.

The set that stands for a conversation holds the runs of five tokens of each of its messages (a shorter
message is one run); system messages are left aside, because many conversations share one. ``rensa``
makes the signatures: their share of equal places estimates the Jaccard similarity of two sets, with a
standard deviation of 0.05 (64 places) or 0.03 (128) at a similarity of 0.8. So of the pairs whose
similarity is just above the threshold some are missed: at 0.85 and a threshold of 0.8 a tenth of them
with 64 places, 1 % with 128; and some just below it are taken.

``near`` finds the pairs among them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import rensa
from numpy.typing import NDArray

from gemfit.data.compiled import njit
from gemfit.data.hash_constants import GOLDEN_RATIO, MURMUR_MIX_1
from gemfit.data.jsonl.conversation import ROLES

NUM_HASHES = {"group": 64, "drop": 128}
"""Places of a signature: what is to be left out is looked at twice as closely."""
SHINGLE = 5
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
    """Hashes of all runs, and where those of each conversation begin and end."""
    hashes = np.empty(len(ids), np.uint64)
    edges = np.zeros(len(last) + 1, np.uint64)
    made = 0
    message = 0
    for conversation in range(len(last)):
        while message < last[conversation]:
            if roles[message] != _SYSTEM:
                start = ends[message - 1] if message else 0
                made = _runs(ids[start : ends[message]], hashes, made)
            message += 1
        edges[conversation + 1] = made
    return hashes[:made], edges


@njit
def _runs(ids: Any, hashes: Any, made: int) -> int:
    """Hash each run of ``SHINGLE`` ids, or all of a shorter message; returns how many are made now."""
    leaving = np.uint64(1)
    for _ in range(SHINGLE):
        leaving *= GOLDEN_RATIO
    rolling = np.uint64(0)
    for at in range(len(ids)):
        # Ids count from 1 here, so that a run of zeros has a length.
        rolling = rolling * GOLDEN_RATIO + np.uint64(ids[at]) + np.uint64(1)
        if at >= SHINGLE:
            rolling -= leaving * (np.uint64(ids[at - SHINGLE]) + np.uint64(1))
        if at >= SHINGLE - 1 or at == len(ids) - 1:
            mixed = (rolling ^ (rolling >> _HALF)) * MURMUR_MIX_1
            hashes[made] = mixed ^ (mixed >> _HALF)
            made += 1
    return made
