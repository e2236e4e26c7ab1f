"""Conversations that are nearly the same, found by MinHash.

The set that stands for a conversation holds the runs of five tokens of each of its messages (a shorter
message is one run); system messages are left aside, because many conversations share one. ``rensa``
makes the signatures: their share of equal places estimates the Jaccard similarity of two sets, with a
standard deviation of 0.05 (64 places) or 0.03 (128) at a similarity of 0.8. So of the pairs whose
similarity is just above the threshold some are missed: at 0.85 and a threshold of 0.8 a tenth of them
with 64 places, 1 % with 128; and some just below it are taken.

Candidates come from locality-sensitive hashing: signatures are cut into bands, and two conversations
with an equal band are compared. Bands are sorted one after another, which takes 40 bytes a conversation
beside the signatures; those may be a memory map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import rensa
from numba import njit
from numpy.typing import NDArray

from gemfit.data.reading.conversation import ROLES

NUM_HASHES = {"group": 64, "drop": 128}
"""Places of a signature: what is to be left out is looked at twice as closely."""
SHINGLE = 5
PROBES = 8
"""Most earlier members of a bucket that a conversation is compared with. Of near copies the nearest is
enough; the members of a large bucket that are no near copies share a template, and the more of them are
compared, the more pass by chance and chain all of them into one group."""
LEADERS = 256
"""Most of the conversations of a group that stay with which the next one is compared."""
RECALL = 0.98
"""Least chance that a pair exactly at the threshold becomes a candidate."""

_SEED = 1
_SYSTEM = ROLES.index("system")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
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


def near_groups(
    signatures: NDArray[np.uint32], threshold: float, order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The group of each conversation in ``order``, named by the place in it of its first: (order,).

    Two whose estimated similarity is at least ``threshold`` are in one group, and so are those between
    which a chain of such pairs exists. Where ``order`` sorts by digest, the groups do not depend on the
    order of the input.
    """
    places = signatures.shape[1]
    parents = np.arange(len(order), dtype=np.int64)
    values = signatures.view(np.ndarray)
    need = _need(threshold, places)
    width = band_width(places, threshold)
    for start in range(0, places - width + 1, width):
        keys = _band_keys(values, order, start, start + width)
        by_key = np.argsort(keys, kind="stable")
        _join(by_key, keys[by_key], values, order, need, parents)
    return _roots(parents)


def stand_ins(
    signatures: NDArray[np.uint32],
    threshold: float,
    order: NDArray[np.int64],
    likeness: NDArray[np.uint64],
    groups: NDArray[np.int64],
    ranked: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The place in ``order`` of the conversation that stays for each one: (order,); its own if it stays.

    likeness, groups: (order,). ranked: places in order, by group and then by what rather stays. What is
    left out is near the one that stays for it, or equal in likeness: a chain of near copies keeps more
    than one. What is not in ``ranked`` stays for itself.
    """
    stays = np.arange(len(order), dtype=np.int64)
    need = _need(threshold, signatures.shape[1])
    _thin(ranked, groups, signatures.view(np.ndarray), order, likeness, need, stays)
    return stays


def merge_groups(parents: NDArray[np.int64], same: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The groups of ``parents``, those joined that hold an equal value of ``same``."""
    merged = parents.copy()
    order = np.argsort(same, kind="stable")
    _join_equal(order, same[order], merged)
    return _roots(merged)


def band_width(places: int, threshold: float) -> int:
    """The widest band that finds a pair at the threshold with a chance of ``RECALL``."""
    for width in range(places // 4, 1, -1):
        if 1 - (1 - threshold**width) ** (places // width) >= RECALL:
            return width
    return 1


def _need(threshold: float, places: int) -> int:
    """How many equal places are a similarity of ``threshold``."""
    return int(np.ceil(threshold * places - 1e-9))


@njit(cache=True)
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


@njit(cache=True)
def _runs(ids: Any, hashes: Any, made: int) -> int:
    """Hash each run of ``SHINGLE`` ids, or all of a shorter message; returns how many are made now."""
    leaving = np.uint64(1)
    for _ in range(SHINGLE):
        leaving *= _FACTOR
    rolling = np.uint64(0)
    for at in range(len(ids)):
        # Ids count from 1 here, so that a run of zeros has a length.
        rolling = rolling * _FACTOR + np.uint64(ids[at]) + np.uint64(1)
        if at >= SHINGLE:
            rolling -= leaving * (np.uint64(ids[at - SHINGLE]) + np.uint64(1))
        if at >= SHINGLE - 1 or at == len(ids) - 1:
            mixed = (rolling ^ (rolling >> _HALF)) * _MIX
            hashes[made] = mixed ^ (mixed >> _HALF)
            made += 1
    return made


@njit(cache=True)
def _band_keys(signatures: Any, order: Any, start: int, stop: int) -> Any:
    keys = np.empty(len(order), np.uint64)
    for at in range(len(order)):
        key = np.uint64(0)
        for place in range(start, stop):
            key = (key ^ np.uint64(signatures[order[at], place])) * _MIX
            key ^= key >> _HALF
        keys[at] = key
    return keys


@njit(cache=True)
def _root(parents: Any, index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


@njit(cache=True)
def _unite(parents: Any, one: int, other: int) -> None:
    first, second = _root(parents, one), _root(parents, other)
    # The smaller index is the root, so that a group is named by its first member.
    if first < second:
        parents[second] = first
    else:
        parents[first] = second


@njit(cache=True)
def _roots(parents: Any) -> Any:
    for index in range(len(parents)):
        parents[index] = _root(parents, index)
    return parents


@njit(cache=True)
def _join(by_key: Any, keys: Any, signatures: Any, order: Any, need: int, parents: Any) -> None:
    """Compare within each run of equal keys, and unite what is alike."""
    begin = 0
    for at in range(1, len(by_key)):
        if keys[at] != keys[at - 1]:
            begin = at
        for earlier in range(at - 1, max(begin, at - PROBES) - 1, -1):
            one, other = by_key[at], by_key[earlier]
            apart = _root(parents, one) != _root(parents, other)
            if apart and _alike(signatures, order[one], order[other], need):
                _unite(parents, one, other)


@njit(cache=True)
def _thin(
    ranked: Any, groups: Any, signatures: Any, order: Any, likeness: Any, need: int, stays: Any
) -> None:
    staying = np.empty(LEADERS, np.int64)
    count = 0
    for at in range(len(ranked)):
        place = ranked[at]
        if at and groups[place] != groups[ranked[at - 1]]:
            count = 0
        for one in staying[:count]:
            same = likeness[one] == likeness[place]
            if same or _alike(signatures, order[one], order[place], need):
                stays[place] = one
                break
        if stays[place] == place and count < LEADERS:
            staying[count] = place
            count += 1


@njit(cache=True)
def _alike(signatures: Any, one: int, other: int, need: int) -> bool:
    equal = 0
    for place in range(signatures.shape[1]):
        equal += signatures[one, place] == signatures[other, place]
    return equal >= need


@njit(cache=True)
def _join_equal(order: Any, values: Any, parents: Any) -> None:
    for at in range(1, len(order)):
        if values[at] == values[at - 1]:
            _unite(parents, order[at], order[at - 1])
