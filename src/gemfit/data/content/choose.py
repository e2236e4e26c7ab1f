"""Which conversations are packed, how often, and on which side of the split.

All of it follows from content, settings and the order of the sources: the order of the lines, how they
are spread over files, and how many processes read them change nothing. A million conversations take
2.3 s and 100 MB beside their columns, of that 1.6 s for near duplicates; the result takes 22 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gemfit.data.content.likeness import merge_groups, near_groups, stand_ins
from gemfit.data.content.mixture import copies_by_weight, mix
from gemfit.errors import UserError
from gemfit.recipe import DataRecipe

Index = NDArray[np.int64]

TEMPLATE_SHARE, TEMPLATE_SIZE = 0.01, 8
"""A group above both has a template in common rather than copies; its members are held out one by one.
Together they could be all of the data, and fall on one side."""
TRAIN, VALIDATION, NOWHERE = 0, 1, -1
_SIDE_SALT = np.uint64(0x5E1F_0000_0000_0001)


class Fate(IntEnum):
    """What became of a valid conversation; the names in lower case are those of the files."""

    KEPT = 0
    DUPLICATE = 1
    NEAR_DUPLICATE = 2
    LEFT_BY_WEIGHT = 3
    BEYOND_MAX_ROWS = 4
    OVERLONG = 5
    UNTRAINED = 6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """Every valid conversation in the order of the input: sources as the recipe has them, then lines."""

    digests: NDArray[np.uint64]
    """(conversations, 2): equal for exact copies only."""
    likeness: NDArray[np.uint64]
    """(conversations,): equal also for copies that differ in case, spacing or punctuation."""
    signatures: NDArray[np.uint32]
    """(conversations, K), may be a memory map; K is 0 under ``near_duplicates: ignore``."""
    source: NDArray[np.int16]
    """(conversations,): index into ``DataRecipe.mixture``."""
    fate: NDArray[np.int8]
    """(conversations,): ``OVERLONG`` or ``UNTRAINED`` where no token is left to pack, else ``KEPT``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice:
    """What is packed. The canonical order is that of the digests."""

    fate: NDArray[np.int8]
    """(conversations,): a ``Fate``."""
    copies: NDArray[np.int32]
    """(conversations,): how often it is in the pack; 0 unless kept."""
    split: NDArray[np.int8]
    """(conversations,): ``TRAIN``, ``VALIDATION``, or ``NOWHERE`` unless kept."""
    original: Index
    """(conversations,): the one that stays for a duplicate or near duplicate; itself for all others."""
    order: Index
    """(kept,): the kept ones, in canonical order."""

    def numbers(self) -> Index:
        """Number of each in canonical order; a duplicate's is that of its original, others have -1."""
        numbers = np.full(len(self.fate), -1, np.int64)
        numbers[self.order] = np.arange(len(self.order))
        copy = self.fate == Fate.DUPLICATE
        numbers[copy] = numbers[self.original[copy]]
        return numbers


def choose(candidates: Candidates, data: DataRecipe, seed: int) -> Choice:
    """Settle duplicates, near duplicates, sides and weights; ``within_max_rows`` comes after it."""
    fate = candidates.fate.copy()
    order, original = _without_copies(candidates.digests, fate)
    likeness = candidates.likeness[order]
    near = np.arange(len(order), dtype=np.int64)
    if data.near_duplicates != "ignore":
        near = near_groups(candidates.signatures, data.near_duplicate_threshold, order)
    groups = merge_groups(near, likeness)
    if data.near_duplicates == "drop":
        _leave_near_copies_out(candidates, data.near_duplicate_threshold, order, groups, fate, original)
    split = np.full(len(fate), NOWHERE, np.int8)
    split[order] = _sides(likeness, _without_templates(near, groups, likeness), data.validation_share)
    copies = np.zeros(len(fate), np.int32)
    weights = np.array([source.weight for source in data.mixture])
    copies[order] = copies_by_weight(candidates.digests[order], weights[candidates.source[order]], seed)
    # A held-out conversation measures; twice the same one measures nothing new.
    np.minimum(copies, 1, out=copies, where=split == VALIDATION)
    fate[(fate == Fate.KEPT) & (copies == 0)] = Fate.LEFT_BY_WEIGHT
    return _choice(fate, copies, split, original, order)


def within_max_rows(choice: Choice, max_rows: int, rows_of: Callable[[Choice], int]) -> Choice:
    """The longest beginning of the canonical order whose training rows are at most ``max_rows``.

    ``rows_of`` packs a choice and counts its training rows; it is asked some 20 times for a million
    conversations. A limit below the first one with training rows is a ``UserError``.
    """
    if rows_of(choice) <= max_rows:
        return choice
    fits, too_many = 0, len(choice.order)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if rows_of(beginning(choice, middle)) <= max_rows:
            fits = middle
        else:
            too_many = middle
    cut = beginning(choice, fits)
    if not (cut.split[cut.order] == TRAIN).any():
        raise UserError(
            f"data.max_rows is {max_rows}, and the first conversation alone takes more rows; write more"
        )
    return cut


def beginning(choice: Choice, count: int) -> Choice:
    """``choice`` without all but the first ``count`` kept conversations."""
    beyond = choice.order[count:]
    fate, copies, split = choice.fate.copy(), choice.copies.copy(), choice.split.copy()
    fate[beyond], copies[beyond], split[beyond] = Fate.BEYOND_MAX_ROWS, 0, NOWHERE
    return replace(choice, fate=fate, copies=copies, split=split, order=choice.order[:count])


def _without_copies(digests: NDArray[np.uint64], fate: NDArray[np.int8]) -> tuple[Index, Index]:
    """One of each content in the order of digests, and the original of every conversation.

    The first in the order of the input stays. Writes ``fate``.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    new = np.ones(len(order), np.bool_)
    new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    # The sort is stable, so the first of a run is the first of the input.
    first = order[new]
    original = np.empty(len(order), np.int64)
    original[order] = first[np.cumsum(new) - 1]
    fate[order[~new]] = Fate.DUPLICATE
    return first, original


def _leave_near_copies_out(
    candidates: Candidates,
    threshold: float,
    order: Index,
    groups: Index,
    fate: NDArray[np.int8],
    original: Index,
) -> None:
    """Keep what is unlike all that is kept: of the first source, there the first in canonical order.

    Writes ``fate`` and ``original``.
    """
    packable = fate[order] == Fate.KEPT
    ranked = np.lexsort((candidates.source[order], groups))
    likeness = candidates.likeness[order]
    stays = stand_ins(candidates.signatures, threshold, order, likeness, groups, ranked[packable[ranked]])
    left = np.flatnonzero(stays != np.arange(len(order)))
    fate[order[left]] = Fate.NEAR_DUPLICATE
    original[order[left]] = order[stays[left]]


def _without_templates(near: Index, groups: Index, likeness: NDArray[np.uint64]) -> Index:
    """The groups that fall on one side: in the largest of ``groups``, only equals in likeness."""
    sizes = np.bincount(groups, minlength=len(groups))[groups]
    large = sizes > max(TEMPLATE_SIZE, TEMPLATE_SHARE * len(groups))
    return merge_groups(np.where(large, np.arange(len(groups)), near), likeness)


def _sides(likeness: NDArray[np.uint64], groups: Index, validation_share: float) -> NDArray[np.int8]:
    """The side of each group, by a hash of the least likeness in it."""
    least = np.full(len(groups), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, groups, likeness)
    # Hashed once more: the least of many is small, and large groups would all be held out.
    draws = mix(least[groups] ^ _SIDE_SALT)
    held_out = draws < np.uint64(int(validation_share * 2**64))
    return np.where(held_out, VALIDATION, TRAIN).astype(np.int8)


def _choice(
    fate: NDArray[np.int8],
    copies: NDArray[np.int32],
    split: NDArray[np.int8],
    original: Index,
    order: Index,
) -> Choice:
    out = fate != Fate.KEPT
    copies[out], split[out] = 0, NOWHERE
    return Choice(fate=fate, copies=copies, split=split, original=original, order=order[~out[order]])
