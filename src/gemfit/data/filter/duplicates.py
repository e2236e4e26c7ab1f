"""Removal of exact copies and near-duplicates, and of training conversations like those of validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import release_pages, slices
from gemfit.data.dedup.groups import Indices, group_sizes
from gemfit.data.dedup.representatives import representatives
from gemfit.data.filter.selection import Disposition, SelectionInput

MAX_SORTED_DIGESTS = 2**20
"""Digests sorted at a time; more are sorted in buckets by their first bits."""


def remove_exact_duplicates(
    digests: NDArray[np.uint64], disposition: NDArray[np.int8]
) -> tuple[Indices, Indices]:
    """One conversation per content, in the order of digests, and the original of every conversation.

    The original is the first in the order of the input. Writes ``disposition``.
    """
    firsts = [np.empty(0, np.int32)]
    original = np.empty(len(digests), np.int32)
    for bucket in _prefix_buckets(digests):
        here = digests[bucket]
        order = np.lexsort((here[:, 1], here[:, 0]))
        new = np.ones(len(order), np.bool_)
        new[1:] = (here[order[1:]] != here[order[:-1]]).any(axis=1)
        # The sort is stable, so the first of equal digests is the first of the input.
        first = bucket[order[new]]
        original[bucket[order]] = first[np.cumsum(new) - 1]
        disposition[bucket[order[~new]]] = Disposition.DUPLICATE
        firsts.append(first)
        release_pages(digests)
    return np.concatenate(firsts), original


def _prefix_buckets(digests: NDArray[np.uint64]) -> Iterator[Indices]:
    """Conversations bucketed by the first bits of their digests; inside a bucket in input order."""
    bits = max(0, (len(digests) - 1) // MAX_SORTED_DIGESTS).bit_length()
    if not bits:
        yield np.arange(len(digests), dtype=np.int32)
        return
    for bucket in range(2**bits):
        found = [np.empty(0, np.int32)]
        for here in slices(len(digests)):
            chosen = np.flatnonzero(digests[here, 0] >> np.uint64(64 - bits) == bucket)
            found.append((chosen + here.start).astype(np.int32))
            release_pages(digests)
        yield np.concatenate(found)


def gathered(values: NDArray[np.uint64], order: Indices) -> NDArray[np.uint64]:
    """``values[order]`` of a mapped column: (order,)."""
    values_of = np.empty(len(order), np.uint64)
    for here in slices(len(order)):
        values_of[here] = values[order[here]]
    release_pages(values)
    return values_of


def drop_near_duplicates(
    candidates: SelectionInput,
    order: Indices,
    normalized_hashes: NDArray[np.uint64],
    groups: Indices,
    disposition: NDArray[np.int8],
    original: Indices,
) -> None:
    """Keep one representative of near-duplicates: from the first source, the first in canonical order.

    Writes ``disposition`` and ``original``.
    """
    some = np.flatnonzero((group_sizes(groups) > 1) & (disposition[order] == Disposition.KEPT)).astype(
        np.int32
    )
    ranked = some[np.lexsort((candidates.source[order[some]], groups[some]))]
    representative_of = representatives(candidates.signatures, order, normalized_hashes, groups, ranked)
    left = ranked[representative_of[ranked] != ranked]
    disposition[order[left]] = Disposition.NEAR_DUPLICATE
    original[order[left]] = order[representative_of[left]]


def leave_out_of_training(
    order: Indices,
    groups: Indices,
    in_validation: NDArray[np.bool_],
    disposition: NDArray[np.int8],
    original: Indices,
) -> None:
    """Drop training conversations that share a group with one of ``in_validation``: (order,).

    Writes ``disposition`` and ``original``.
    """
    representative = np.full(len(order), -1, np.int32)
    representative[groups[in_validation]] = np.flatnonzero(in_validation)
    found = representative[groups]
    left = np.flatnonzero((found >= 0) & ~in_validation & (disposition[order] == Disposition.KEPT))
    disposition[order[left]] = Disposition.NEAR_DUPLICATE
    original[order[left]] = order[found[left]]
