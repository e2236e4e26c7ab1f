"""Groups of conversations that are nearly the same, from their signatures (see ``likeness``).

Candidates come from locality-sensitive hashing: signatures are cut into bands, and two conversations
with an equal band are compared. Bands are gone through one after another, which takes 12 bytes a
conversation and a table of 32 MiB at most. Signatures stay on disk: that of a conversation is read where
it is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import ColumnFile, let_go, pread, stretches
from gemfit.data.compiled import njit, njit_helper
from gemfit.data.hash_constants import MURMUR_MIX_1

PROBES = 8
"""Most earlier members of a bucket that a conversation is compared with. Of near copies the nearest is
enough; the members of a large bucket that are no near copies share a template, and the more of them are
compared, the more pass by chance and chain all of them into one group."""
LEADERS = 256
"""Most of the conversations of a group that stay with which the next one is compared."""
RECALL = 0.98
"""Least chance that a pair exactly at the threshold becomes a candidate."""
_HALF = np.uint64(32)
AT_ONCE = 2**22
"""Keys that a table holds at once; of more, one share after another is gone through."""

Places = NDArray[np.int32]
"""Places in an order of conversations."""


class Signatures:
    """The signatures of conversations on disk, with the keys of their bands; close them at the end.

    places: length of a signature; 0 where near duplicates are not looked for, and nothing is kept.
    """

    def __init__(self, places: int, threshold: float, folder: Path | None = None) -> None:
        self.places = places
        self.need = _need(threshold, places)
        self.width = band_width(places, threshold)
        self.values = ColumnFile(folder, np.uint32, places)
        """(conversations, places)"""
        self._bands = [ColumnFile(folder, np.uint64) for _ in range(places // self.width)]

    def __len__(self) -> int:
        return len(self.values)

    def append(self, values: NDArray[np.uint32]) -> None:
        """Add the signatures of some conversations: (conversations, places)."""
        self.values.append(values)
        for number, band in enumerate(self._bands):
            band.append(_band_keys(values, number * self.width, (number + 1) * self.width))

    def band(self, number: int, order: Places) -> NDArray[np.uint64]:
        """Keys of a band of the conversations in ``order``: (order,)."""
        keys = self._bands[number].mapped()
        found = np.empty(len(order), np.uint64)
        for here in stretches(len(order)):
            found[here] = keys[order[here]]
        let_go(keys)
        return found

    @property
    def num_bands(self) -> int:
        """Bands of each signature."""
        return len(self._bands)

    def close(self) -> None:
        """Give the files back."""
        for column in (self.values, *self._bands):
            column.close()


def near_duplicate_groups(signatures: Signatures, order: Places, at_once: int = AT_ONCE) -> Places:
    """The group of each conversation in ``order``, named by the place in it of its first: (order,).

    Two whose estimated similarity is at least the threshold are in one group, and so are those between
    which a chain of such pairs exists. Where ``order`` sorts by digest, the groups do not depend on the
    order of the input.
    """
    parents = np.arange(len(order), dtype=np.int32)
    for number in range(signatures.num_bands):
        keys = signatures.band(number, order)
        descriptor, places = signatures.values.descriptor, signatures.places
        _join(keys, order, descriptor, places, signatures.need, parents, at_once)
    return np.asarray(_roots(parents))


def representatives(
    signatures: Signatures, order: Places, likeness: NDArray[np.uint64], groups: Places, ranked: Places
) -> Places:
    """The place in ``order`` of the conversation that stays for each one: (order,); its own if it stays.

    likeness, groups: (order,). ranked: places in order, by group and then by what rather stays. What is
    left out is near the one that stays for it, or equal in likeness: a chain of near copies keeps more
    than one. What is not in ``ranked`` stays for itself.
    """
    stays = np.arange(len(order), dtype=np.int32)
    descriptor, places = signatures.values.descriptor, signatures.places
    _thin(ranked, groups, descriptor, places, order, likeness, signatures.need, stays)
    return stays


def merge_groups(parents: Places, same: NDArray[np.uint64], at_once: int = AT_ONCE) -> Places:
    """The groups of ``parents``, those joined that hold an equal value of ``same``."""
    merged = parents.copy()
    _join_equal(same, merged, at_once)
    return np.asarray(_roots(merged))


def group_sizes(groups: Places) -> Places:
    """How many are in the group of each: (order,)."""
    return np.bincount(groups)[groups].astype(np.int32) if len(groups) else groups.copy()


def _roots(parents: Places) -> Places:
    """The root of each: parents point to smaller numbers, so each round halves the way."""
    while not np.array_equal(grand := parents[parents], parents):
        parents = grand
    return parents


def band_width(places: int, threshold: float) -> int:
    """The widest band that finds a pair at the threshold with a chance of ``RECALL``."""
    for width in range(places // 4, 1, -1):
        if 1 - (1 - threshold**width) ** (places // width) >= RECALL:
            return width
    return 1


def _need(threshold: float, places: int) -> int:
    """How many equal places are a similarity of ``threshold``."""
    return int(np.ceil(threshold * places - 1e-9))


@njit
def _band_keys(signatures: Any, start: int, stop: int) -> Any:
    keys = np.empty(len(signatures), np.uint64)
    for at in range(len(signatures)):
        key = np.uint64(0)
        for place in range(start, stop):
            key = (key ^ np.uint64(signatures[at, place])) * MURMUR_MIX_1
            key ^= key >> _HALF
        keys[at] = key
    return keys


@njit_helper
def _root(parents: Any, index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


@njit_helper
def _unite(parents: Any, one: int, other: int) -> None:
    first, second = _root(parents, one), _root(parents, other)
    # The smaller index is the root, so that a group is named by its first member.
    if first < second:
        parents[second] = first
    else:
        parents[first] = second


@njit
def _table(count: int, at_once: int) -> Any:
    """How many shares the keys are taken in, and an empty table with room for one of them."""
    shares = count // at_once + 1
    slots = 2
    while slots < 2 * (count // shares):
        slots *= 2
    return shares, np.full(slots, -1, np.int32)


@njit_helper
def _slot(table: Any, keys: Any, at: int) -> Any:
    """Where the table has, or would have, the latest with the key of ``at``."""
    slot = np.int64(keys[at] % np.uint64(len(table)))
    while table[slot] >= 0 and keys[table[slot]] != keys[at]:
        slot = (slot + 1) % len(table)
    return slot


@njit
def _join(keys: Any, order: Any, descriptor: int, places: int, need: int, parents: Any, at_once: int) -> None:
    """Compare each with the latest before it that have an equal key, and unite what is alike."""
    before = np.empty(len(keys), np.int32)
    one, other = np.empty(places, np.uint32), np.empty(places, np.uint32)
    shares, table = _table(len(keys), at_once)
    for share in range(shares):
        table[:] = -1
        for at in range(len(keys)):
            if (keys[at] >> _HALF) % np.uint64(shares) != np.uint64(share):
                continue
            slot = _slot(table, keys, at)
            earlier = table[slot]
            before[at], table[slot] = earlier, at
            known = False
            for _ in range(PROBES):
                if earlier < 0:
                    break
                if _root(parents, at) != _root(parents, earlier):
                    if not known:
                        _read(descriptor, order[at], one)
                        known = True
                    _read(descriptor, order[earlier], other)
                    if _alike(one, other, need):
                        _unite(parents, at, earlier)
                earlier = before[earlier]


@njit
def _thin(
    ranked: Any,
    groups: Any,
    descriptor: int,
    places: int,
    order: Any,
    likeness: Any,
    need: int,
    stays: Any,
) -> None:
    staying = np.empty(LEADERS, np.int64)
    leaders = np.empty((LEADERS, places), np.uint32)
    own = np.empty(places, np.uint32)
    count = 0
    for at in range(len(ranked)):
        place = ranked[at]
        if at and groups[place] != groups[ranked[at - 1]]:
            count = 0
        _read(descriptor, order[place], own)
        for leader in range(count):
            one = staying[leader]
            if likeness[one] == likeness[place] or _alike(leaders[leader], own, need):
                stays[place] = one
                break
        if stays[place] == place and count < LEADERS:
            staying[count] = place
            leaders[count] = own
            count += 1


@njit
def _read(descriptor: int, index: int, into: Any) -> None:
    """The signature of one conversation."""
    size = 4 * len(into)
    offset = np.int64(size) * np.int64(index)
    if pread(descriptor, np.uintp(into.ctypes.data), np.uint64(size), offset) != size:
        raise OSError("a signature could not be read back from the cache's disk")


@njit_helper
def _alike(one: Any, other: Any, need: int) -> bool:
    equal = 0
    for place in range(len(one)):
        equal += one[place] == other[place]
    return equal >= need


@njit
def _join_equal(values: Any, parents: Any, at_once: int) -> None:
    shares, table = _table(len(values), at_once)
    for share in range(shares):
        table[:] = -1
        for at in range(len(values)):
            if (values[at] >> _HALF) % np.uint64(shares) != np.uint64(share):
                continue
            slot = _slot(table, values, at)
            if table[slot] >= 0:
                _unite(parents, at, table[slot])
            table[slot] = at
