"""Conversation selection: deduplication, validation split and mixture weights.

The result depends on content, settings and the order of the sources only, not on the order of lines, their
distribution over files, or the number of processes. A million conversations take at most 63 MB in addition
to their columns on disk; the result takes 15 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import release_pages, slices
from gemfit.data.dedup.lsh import (
    Indices,
    Signatures,
    group_sizes,
    merge_groups,
    near_duplicate_groups,
    representatives,
)
from gemfit.data.filter.mixture import copies_by_weight, mix
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

TEMPLATE_SHARE, TEMPLATE_SIZE = 0.01, 8
"""A group above both shares a template rather than copies; its members are split one by one. As a group
they could be all of the data, and all be in one split."""
TRAIN, VALIDATION, NO_SPLIT = 0, 1, -1
_SPLIT_SALT = np.uint64(0x5E1F_0000_0000_0001)
MAX_SORTED_DIGESTS = 2**20
"""Digests sorted at a time; more are sorted in buckets by their first bits."""


class Disposition(IntEnum):
    """Whether a valid conversation is packed, or why not; files have the names in lower case."""

    KEPT = 0
    DUPLICATE = 1
    NEAR_DUPLICATE = 2
    LEFT_BY_WEIGHT = 3
    BEYOND_MAX_ROWS = 4
    OVERLONG = 5
    UNTRAINED = 6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SelectionInput:
    """Every valid conversation in the order of the input: sources as the recipe has them, then lines.

    ``digests`` and ``normalized_hashes`` may be memory-mapped; their pages are released after use.
    """

    digests: NDArray[np.uint64]
    """(conversations, 2): equal for exact copies only."""
    normalized_hashes: NDArray[np.uint64]
    """(conversations,): equal also for copies that differ in case, spacing or punctuation."""
    signatures: Signatures
    """Empty under ``near_duplicates: ignore``."""
    source: NDArray[np.int16]
    """(conversations,): index into ``DataRecipe.all_sources``."""
    disposition: NDArray[np.int8]
    """(conversations,): ``OVERLONG`` or ``UNTRAINED`` if no token is left to pack, else ``KEPT``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Selection:
    """The packed conversations. The canonical order is that of the digests."""

    disposition: NDArray[np.int8]
    """(conversations,): a ``Disposition``."""
    copies: NDArray[np.int32]
    """(conversations,): copies in the pack; 0 unless kept."""
    split: NDArray[np.int8]
    """(conversations,): ``TRAIN``, ``VALIDATION``, or ``NO_SPLIT`` unless kept."""
    original: Indices
    """(conversations,): the one that represents a duplicate or near-duplicate; itself for all others."""
    order: Indices
    """(kept,): the kept ones, in canonical order."""

    def numbers(self) -> Indices:
        """Number of each in canonical order; a duplicate's is that of its original, others have -1."""
        numbers = np.full(len(self.disposition), -1, np.int32)
        for here in slices(len(self.order)):
            numbers[self.order[here]] = np.arange(here.start, here.stop)
        copy = np.flatnonzero(self.disposition == Disposition.DUPLICATE)
        numbers[copy] = numbers[self.original[copy]]
        return numbers


def select_conversations(candidates: SelectionInput, data: DataRecipe, seed: int) -> Selection:
    """Remove duplicates, assign splits and apply weights; ``within_max_rows`` follows."""
    disposition = candidates.disposition.copy()
    order, original = _remove_exact_duplicates(candidates.digests, disposition)
    near_groups = np.arange(len(order), dtype=np.int32)
    if data.near_duplicates != "ignore":
        near_groups = near_duplicate_groups(candidates.signatures, order)
    normalized_hashes = _gathered(candidates.normalized_hashes, order)
    groups = merge_groups(near_groups, normalized_hashes)
    if data.near_duplicates == "drop":
        _drop_near_duplicates(candidates, order, normalized_hashes, groups, disposition, original)
    split = np.full(len(disposition), NO_SPLIT, np.int8)
    together = _split_template_groups(near_groups, groups, normalized_hashes)
    if data.validation:
        in_validation = candidates.source[order] < len(data.validation)
        _leave_out_of_training(order, together, in_validation, disposition, original)
        split[order] = np.where(in_validation, VALIDATION, TRAIN)
    else:
        split[order] = _assign_splits(normalized_hashes, together, data.validation_share)
    del together, near_groups, groups, normalized_hashes
    copies = _copies(candidates, data, seed, order)
    # Validation gains nothing from a second copy.
    np.minimum(copies, 1, out=copies, where=split == VALIDATION)
    disposition[(disposition == Disposition.KEPT) & (copies == 0)] = Disposition.LEFT_BY_WEIGHT
    return _make_selection(disposition, copies, split, original, order)


def also_in_validation(selection: Selection, in_validation: NDArray[np.bool_]) -> int:
    """How many training conversations were left out as copies of one of ``data.validation``.

    in_validation: (conversations,), whether each is from ``data.validation``.
    """
    count = 0
    for here in slices(len(in_validation)):
        is_copy = np.isin(selection.disposition[here], (Disposition.DUPLICATE, Disposition.NEAR_DUPLICATE))
        count += int(
            np.count_nonzero(is_copy & ~in_validation[here] & in_validation[selection.original[here]])
        )
    return count


def within_max_rows(
    selection: Selection,
    max_rows: int,
    rows_of: Callable[[Selection], int],
    *,
    keep_validation: bool = False,
) -> Selection:
    """The longest beginning of the canonical order whose training rows are at most ``max_rows``.

    ``rows_of`` packs a selection and counts its training rows; it is called some 20 times for a
    million conversations. A limit below the first one with training rows is a ``UserError``.
    ``keep_validation`` leaves the validation split whole.
    """
    if rows_of(selection) <= max_rows:
        return selection
    fits, too_many = 0, len(selection.order)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if rows_of(first_conversations(selection, middle, keep_validation=keep_validation)) <= max_rows:
            fits = middle
        else:
            too_many = middle
    cut = first_conversations(selection, fits, keep_validation=keep_validation)
    if not (cut.split[cut.order] == TRAIN).any():
        raise UserError(
            f"data.max_rows is {max_rows}, and the first conversation alone takes more rows; write more"
        )
    return cut


def first_conversations(selection: Selection, count: int, *, keep_validation: bool = False) -> Selection:
    """``selection`` without all but the first ``count`` kept conversations, and those of validation."""
    beyond = selection.order[count:]
    kept = selection.order[:count]
    if keep_validation:
        is_validation = selection.split[beyond] == VALIDATION
        kept, beyond = np.concatenate([kept, beyond[is_validation]]), beyond[~is_validation]
    disposition, copies, split = selection.disposition.copy(), selection.copies.copy(), selection.split.copy()
    disposition[beyond], copies[beyond], split[beyond] = Disposition.BEYOND_MAX_ROWS, 0, NO_SPLIT
    return replace(selection, disposition=disposition, copies=copies, split=split, order=kept)


def _remove_exact_duplicates(
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


def _gathered(values: NDArray[np.uint64], order: Indices) -> NDArray[np.uint64]:
    """``values[order]`` of a mapped column: (order,)."""
    values_of = np.empty(len(order), np.uint64)
    for here in slices(len(order)):
        values_of[here] = values[order[here]]
    release_pages(values)
    return values_of


def _drop_near_duplicates(
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


def _leave_out_of_training(
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


def _split_template_groups(
    near_groups: Indices, groups: Indices, normalized_hashes: NDArray[np.uint64]
) -> Indices:
    """The groups that share a split: of very large ``groups`` only those with equal normalized hashes."""
    large = group_sizes(groups) > max(TEMPLATE_SIZE, TEMPLATE_SHARE * len(groups))
    if not large.any():
        return groups
    return merge_groups(
        np.where(large, np.arange(len(groups), dtype=np.int32), near_groups), normalized_hashes
    )


def _assign_splits(
    normalized_hashes: NDArray[np.uint64], groups: Indices, validation_share: float
) -> NDArray[np.int8]:
    """Train or validation split of each group, by a hash of its least normalized hash."""
    least = np.full(len(groups), np.iinfo(np.uint64).max, np.uint64)
    for here in slices(len(groups)):
        np.minimum.at(least, groups[here], normalized_hashes[here])
    split = np.empty(len(groups), np.int8)
    for here in slices(len(groups)):
        # Hashed again: the minimum of many is small, and large groups would all be in the validation split.
        draws = mix(least[groups[here]] ^ _SPLIT_SALT)
        split[here] = np.where(draws < np.uint64(int(validation_share * 2**64)), VALIDATION, TRAIN)
    return split


def _copies(candidates: SelectionInput, data: DataRecipe, seed: int, order: Indices) -> NDArray[np.int32]:
    """Copies of each conversation by the weight of its source: (conversations,)."""
    weights = np.array([source.weight for source in data.all_sources])
    copies = np.zeros(len(candidates.disposition), np.int32)
    for here in slices(len(order)):
        chosen = order[here]
        weight = weights[candidates.source[chosen]]
        copies[chosen] = copies_by_weight(candidates.digests[chosen], weight, seed)
    release_pages(candidates.digests)
    return copies


def _make_selection(
    disposition: NDArray[np.int8],
    copies: NDArray[np.int32],
    split: NDArray[np.int8],
    original: Indices,
    order: Indices,
) -> Selection:
    out = disposition != Disposition.KEPT
    copies[out], split[out] = 0, NO_SPLIT
    return Selection(
        disposition=disposition, copies=copies, split=split, original=original, order=order[~out[order]]
    )
