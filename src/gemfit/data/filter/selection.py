"""Which conversations are packed, how often, and on which side of the split.

All of it follows from content, settings and the order of the sources: the order of the lines, how they
are spread over files, and how many processes read them change nothing. A million conversations take at
most 63 MB beside their columns on disk; the result takes 15 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import let_go, stretches
from gemfit.data.dedup.lsh import (
    Places,
    Signatures,
    group_sizes,
    merge_groups,
    near_duplicate_groups,
    representatives,
)
from gemfit.data.filter.mixture import copies_by_weight, mix
from gemfit.errors import UserError
from gemfit.schemas.recipe import DataRecipe

TEMPLATE_SHARE, TEMPLATE_SIZE = 0.01, 8
"""A group above both has a template in common rather than copies; its members are held out one by one.
Together they could be all of the data, and fall on one side."""
TRAIN, VALIDATION, NOWHERE = 0, 1, -1
_SIDE_SALT = np.uint64(0x5E1F_0000_0000_0001)
_SORTED_AT_ONCE = 2**20
"""Digests; of more, those that begin with the same bits are sorted one lot after another."""


class Disposition(IntEnum):
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
    """Every valid conversation in the order of the input: sources as the recipe has them, then lines.

    Digests and likeness may be mapped; their pages are let go when they were used.
    """

    digests: NDArray[np.uint64]
    """(conversations, 2): equal for exact copies only."""
    likeness: NDArray[np.uint64]
    """(conversations,): equal also for copies that differ in case, spacing or punctuation."""
    signatures: Signatures
    """Empty under ``near_duplicates: ignore``."""
    source: NDArray[np.int16]
    """(conversations,): index into ``DataRecipe.mixture``."""
    fate: NDArray[np.int8]
    """(conversations,): ``OVERLONG`` or ``UNTRAINED`` where no token is left to pack, else ``KEPT``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice:
    """What is packed. The canonical order is that of the digests."""

    fate: NDArray[np.int8]
    """(conversations,): a ``Disposition``."""
    copies: NDArray[np.int32]
    """(conversations,): how often it is in the pack; 0 unless kept."""
    split: NDArray[np.int8]
    """(conversations,): ``TRAIN``, ``VALIDATION``, or ``NOWHERE`` unless kept."""
    original: Places
    """(conversations,): the one that stays for a duplicate or near duplicate; itself for all others."""
    order: Places
    """(kept,): the kept ones, in canonical order."""

    def numbers(self) -> Places:
        """Number of each in canonical order; a duplicate's is that of its original, others have -1."""
        numbers = np.full(len(self.fate), -1, np.int32)
        for here in stretches(len(self.order)):
            numbers[self.order[here]] = np.arange(here.start, here.stop)
        copy = np.flatnonzero(self.fate == Disposition.DUPLICATE)
        numbers[copy] = numbers[self.original[copy]]
        return numbers


def choose(candidates: Candidates, data: DataRecipe, seed: int) -> Choice:
    """Settle duplicates, near duplicates, sides and weights; ``within_max_rows`` comes after it."""
    fate = candidates.fate.copy()
    order, original = _without_copies(candidates.digests, fate)
    near = np.arange(len(order), dtype=np.int32)
    if data.near_duplicates != "ignore":
        near = near_duplicate_groups(candidates.signatures, order)
    likeness = _taken(candidates.likeness, order)
    groups = merge_groups(near, likeness)
    if data.near_duplicates == "drop":
        _leave_near_copies_out(candidates, order, likeness, groups, fate, original)
    split = np.full(len(fate), NOWHERE, np.int8)
    split[order] = _sides(likeness, _without_templates(near, groups, likeness), data.validation_share)
    del near, groups, likeness
    copies = _copies(candidates, data, seed, order)
    # A held-out conversation measures; twice the same one measures nothing new.
    np.minimum(copies, 1, out=copies, where=split == VALIDATION)
    fate[(fate == Disposition.KEPT) & (copies == 0)] = Disposition.LEFT_BY_WEIGHT
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
    fate[beyond], copies[beyond], split[beyond] = Disposition.BEYOND_MAX_ROWS, 0, NOWHERE
    return replace(choice, fate=fate, copies=copies, split=split, order=choice.order[:count])


def _without_copies(digests: NDArray[np.uint64], fate: NDArray[np.int8]) -> tuple[Places, Places]:
    """One of each content in the order of digests, and the original of every conversation.

    The first in the order of the input stays. Writes ``fate``.
    """
    firsts = [np.empty(0, np.int32)]
    original = np.empty(len(digests), np.int32)
    for lot in _lots(digests):
        here = digests[lot]
        order = np.lexsort((here[:, 1], here[:, 0]))
        new = np.ones(len(order), np.bool_)
        new[1:] = (here[order[1:]] != here[order[:-1]]).any(axis=1)
        # The sort is stable, so the first of a run is the first of the input.
        first = lot[order[new]]
        original[lot[order]] = first[np.cumsum(new) - 1]
        fate[lot[order[~new]]] = Disposition.DUPLICATE
        firsts.append(first)
        let_go(digests)
    return np.concatenate(firsts), original


def _lots(digests: NDArray[np.uint64]) -> Iterator[Places]:
    """Conversations by the first bits of their digests, in the order of these; in a lot as in the input."""
    bits = max(0, (len(digests) - 1) // _SORTED_AT_ONCE).bit_length()
    if not bits:
        yield np.arange(len(digests), dtype=np.int32)
        return
    for lot in range(2**bits):
        found = [np.empty(0, np.int32)]
        for here in stretches(len(digests)):
            chosen = np.flatnonzero(digests[here, 0] >> np.uint64(64 - bits) == lot)
            found.append((chosen + here.start).astype(np.int32))
            let_go(digests)
        yield np.concatenate(found)


def _taken(values: NDArray[np.uint64], order: Places) -> NDArray[np.uint64]:
    """The values of these conversations: (order,)."""
    taken = np.empty(len(order), np.uint64)
    for here in stretches(len(order)):
        taken[here] = values[order[here]]
    let_go(values)
    return taken


def _leave_near_copies_out(
    candidates: Candidates,
    order: Places,
    likeness: NDArray[np.uint64],
    groups: Places,
    fate: NDArray[np.int8],
    original: Places,
) -> None:
    """Keep what is unlike all that is kept: of the first source, there the first in canonical order.

    Writes ``fate`` and ``original``.
    """
    some = np.flatnonzero((group_sizes(groups) > 1) & (fate[order] == Disposition.KEPT)).astype(np.int32)
    ranked = some[np.lexsort((candidates.source[order[some]], groups[some]))]
    stays = representatives(candidates.signatures, order, likeness, groups, ranked)
    left = ranked[stays[ranked] != ranked]
    fate[order[left]] = Disposition.NEAR_DUPLICATE
    original[order[left]] = order[stays[left]]


def _without_templates(near: Places, groups: Places, likeness: NDArray[np.uint64]) -> Places:
    """The groups that fall on one side: in the largest of ``groups``, only equals in likeness."""
    large = group_sizes(groups) > max(TEMPLATE_SIZE, TEMPLATE_SHARE * len(groups))
    if not large.any():
        return groups
    return merge_groups(np.where(large, np.arange(len(groups), dtype=np.int32), near), likeness)


def _sides(likeness: NDArray[np.uint64], groups: Places, validation_share: float) -> NDArray[np.int8]:
    """The side of each group, by a hash of the least likeness in it."""
    least = np.full(len(groups), np.iinfo(np.uint64).max, np.uint64)
    for here in stretches(len(groups)):
        np.minimum.at(least, groups[here], likeness[here])
    sides = np.empty(len(groups), np.int8)
    for here in stretches(len(groups)):
        # Hashed once more: the least of many is small, and large groups would all be held out.
        draws = mix(least[groups[here]] ^ _SIDE_SALT)
        sides[here] = np.where(draws < np.uint64(int(validation_share * 2**64)), VALIDATION, TRAIN)
    return sides


def _copies(candidates: Candidates, data: DataRecipe, seed: int, order: Places) -> NDArray[np.int32]:
    """How often each conversation is taken by the weight of its source: (conversations,)."""
    weights = np.array([source.weight for source in data.mixture])
    copies = np.zeros(len(candidates.fate), np.int32)
    for here in stretches(len(order)):
        chosen = order[here]
        weight = weights[candidates.source[chosen]]
        copies[chosen] = copies_by_weight(candidates.digests[chosen], weight, seed)
    let_go(candidates.digests)
    return copies


def _choice(
    fate: NDArray[np.int8],
    copies: NDArray[np.int32],
    split: NDArray[np.int8],
    original: Places,
    order: Places,
) -> Choice:
    out = fate != Disposition.KEPT
    copies[out], split[out] = 0, NOWHERE
    return Choice(fate=fate, copies=copies, split=split, original=original, order=order[~out[order]])
