"""Input and result of the selection of conversations, and its cut at ``data.max_rows``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import slices
from gemfit.data.dedup.groups import Indices
from gemfit.data.dedup.signatures import Signatures
from gemfit.errors import UserError

TRAIN, VALIDATION, NO_SPLIT = 0, 1, -1


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


def also_in_validation(selection: Selection, in_validation: NDArray[np.bool_]) -> Indices:
    """Training conversations that were left out as copies of one of ``data.validation``: (copies,).

    in_validation: (conversations,), whether each is from ``data.validation``.
    """
    found = [np.empty(0, np.int32)]
    for here in slices(len(in_validation)):
        is_copy = np.isin(selection.disposition[here], (Disposition.DUPLICATE, Disposition.NEAR_DUPLICATE))
        left = is_copy & ~in_validation[here] & in_validation[selection.original[here]]
        found.append((np.flatnonzero(left) + here.start).astype(np.int32))
    return np.concatenate(found)


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
