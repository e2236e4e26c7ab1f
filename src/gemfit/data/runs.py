"""Choose where long conversations are cut so that rows come out full.

A conversation that fits into a row is one *atom*. A longer one is a chain of atoms, cut at every place
where a piece may begin (see ``split``); a *run* of atoms that stand together becomes one piece. Two
ways are tried, and the one with fewer rows is taken:

- each piece takes all that fits, and best fit, decreasing, packs the pieces: the fewest cuts;
- each row takes a run of the longest conversation at hand, and the run or whole conversation that
  gains most in the rest. The gain is what it holds less the context that its end makes the next piece
  repeat.

Cost: some tens of microseconds a row that holds a part of a long conversation; 50 bytes an atom.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gemfit.data.pack import improve, pack
from gemfit.data.windows import AT_ONCE, pack_any

WINDOW = 128
"""Long conversations among which the best filling is looked for."""
OPTIONS = 32
"""Lengths of the first run of a row that are tried, the longest first."""
ENOUGH = 32
"""Ends of conversations, of half a row at most, that pack well without being cut."""
TIGHT = 10
"""Repeated tokens that are spent rather than leave one place empty, where rows are to be full."""

Ints = NDArray[np.int32]


class Atoms(NamedTuple):
    """Parts that pieces are made of, in input order. Each array: (atoms,)."""

    lengths: Ints
    """Tokens of a piece of this atom alone: context and body."""
    context: Ints
    """Masked tokens in front, needed only where a piece begins."""
    linked: NDArray[np.bool_]
    """True where it can go on in the piece of the atom before it."""


class Runs(NamedTuple):
    """Pieces, by row and in input order within a row. Each array: (pieces,)."""

    first: Ints
    """The atom that the piece begins with."""
    num_atoms: Ints
    """Atoms in the piece."""
    lengths: Ints
    """Tokens of the piece, the context of its first atom included."""
    row: Ints
    """From 0, without gaps."""


def fit_runs(atoms: Atoms, seq_len: int, *, tight: bool = False, at_once: int = AT_ONCE) -> Runs:
    """Make pieces of the atoms and put them into rows; every atom is in exactly one piece.

    ``tight`` fills rows to the last token at the price of more pieces, which repeat more context: for
    atoms that were cut anywhere. More than ``at_once`` atoms are fitted in slabs of whole conversations.
    """
    if len(atoms.lengths) <= at_once or not atoms.linked.any():
        return _fit_slab(atoms, seq_len, tight, at_once)
    slabs = [_fit_slab(slab, seq_len, tight, at_once) for slab in _slabs(atoms, at_once)]
    rows = np.cumsum([0, *(slab.row[-1] + 1 for slab in slabs)])
    firsts = np.cumsum([0, *(slab.num_atoms.sum(dtype=np.int64) for slab in slabs)])
    return Runs(
        np.concatenate([slab.first + at for slab, at in zip(slabs, firsts, strict=False)]).astype(np.int32),
        np.concatenate([slab.num_atoms for slab in slabs]),
        np.concatenate([slab.lengths for slab in slabs]),
        np.concatenate([slab.row + at for slab, at in zip(slabs, rows, strict=False)]).astype(np.int32),
    )


def _fit_slab(atoms: Atoms, seq_len: int, tight: bool, at_once: int) -> Runs:
    longest = longest_pieces(atoms, seq_len, at_once)
    if not atoms.linked.any():
        return longest
    fitted = _fitted_pieces(atoms, seq_len, TIGHT if tight else 1)
    return fitted if fitted.row[-1] < longest.row[-1] else longest


def _slabs(atoms: Atoms, at_once: int) -> Iterator[Atoms]:
    """Whole conversations of together some ``at_once`` atoms."""
    heads = np.append(np.flatnonzero(~atoms.linked), len(atoms.lengths))
    start = 0
    while start < len(atoms.lengths):
        after = max(1, int(np.searchsorted(heads, start + at_once, "right")) - 1)
        stop = int(heads[after]) if heads[after] > start else int(heads[heads > start][0])
        here = slice(start, stop)
        yield Atoms(atoms.lengths[here], atoms.context[here], atoms.linked[here])
        start = stop


def longest_pieces(atoms: Atoms, seq_len: int, at_once: int = AT_ONCE) -> Runs:
    """Pieces that take all that fits, packed best fit, decreasing."""
    heads, stops = _chains(atoms)
    bodies = atoms.lengths - atoms.context
    first, num_atoms = _cut_late(atoms.lengths, bodies, heads, stops, seq_len)
    return _sorted(
        atoms, first, num_atoms, pack_any(_tokens(atoms, first, num_atoms), seq_len, at_once=at_once)
    )


def _fitted_pieces(atoms: Atoms, seq_len: int, worth: int) -> Runs:
    heads, stops = _chains(atoms)
    alone = stops - heads == 1
    whole = heads[alone]
    bodies = atoms.lengths - atoms.context
    chains = np.flatnonzero(~alone)
    totals = np.add.reduceat(bodies, heads, dtype=np.int64)[chains]
    # Longest first, so that the last rows are made of conversations that need few.
    chains = chains[np.argsort(-totals, kind="stable")]
    by_length = whole[np.argsort(atoms.lengths[whole], kind="stable")]
    first, num_atoms, row, free, used, ends = _fill_rows(
        atoms.lengths, bodies, heads[chains], stops[chains], by_length, seq_len, worth
    )
    left = np.sort(by_length[~used])
    first = np.concatenate([first, ends[0], left])
    num_atoms = np.concatenate([num_atoms, ends[1], np.ones_like(left)])
    lengths = _tokens(atoms, first, num_atoms)
    row = np.concatenate([row, pack(lengths[len(row) :], seq_len, free)])
    return _sorted(atoms, first, num_atoms, improve(lengths, row, seq_len))


def _chains(atoms: Atoms) -> tuple[Ints, Ints]:
    """First atom of each conversation, and the one after its last."""
    heads = np.flatnonzero(~atoms.linked).astype(np.int32)
    return heads, np.append(heads[1:], len(atoms.lengths)).astype(np.int32)


def _tokens(atoms: Atoms, first: Ints, num_atoms: Ints) -> Ints:
    """Length of each piece: its bodies, and the context of its first atom."""
    before = np.concatenate([[0], np.cumsum(atoms.lengths - atoms.context, dtype=np.int64)])
    return (before[first + num_atoms] - before[first] + atoms.context[first]).astype(np.int32)


def _sorted(atoms: Atoms, first: Ints, num_atoms: Ints, row: Ints) -> Runs:
    order = np.lexsort((first, row))
    first, num_atoms = first[order], num_atoms[order]
    return Runs(first, num_atoms, _tokens(atoms, first, num_atoms), row[order])


@njit(cache=True)
def _cut_late(lengths, bodies, heads, stops, seq_len):  # type: ignore[no-untyped-def]
    """Pieces that each take all the atoms that fit."""
    first = np.empty(len(lengths), np.int32)
    num_atoms = np.empty(len(lengths), np.int32)
    num_runs = 0
    for chain in range(len(heads)):
        position = heads[chain]
        while position < stops[chain]:
            first[num_runs] = position
            num_atoms[num_runs] = _longest(lengths, bodies, position, stops[chain], seq_len)
            position += num_atoms[num_runs]
            num_runs += 1
    return first[:num_runs], num_atoms[:num_runs]


@njit(cache=True)
def _fill_rows(lengths, bodies, heads, stops, whole, seq_len, worth):  # type: ignore[no-untyped-def]
    """Rows out of chains, and of whole conversations (sorted by length) where they fill a rest best."""
    first = np.empty(len(lengths), np.int32)
    count = np.empty(len(lengths), np.int32)
    row = np.empty(len(lengths), np.int32)
    free = np.empty(len(lengths), np.int32)
    num_runs = num_rows = 0
    used = np.zeros(len(whole), np.bool_)
    begin, left, down = _stock(lengths[whole], seq_len)
    at = heads.copy()
    rest = np.empty(len(heads), np.int64)
    for chain in range(len(heads)):
        rest[chain] = _length(lengths, bodies, heads[chain], stops[chain] - heads[chain])
    window = np.arange(min(WINDOW, len(heads)))
    fresh = len(window)
    long_left = long_total = rest.sum()
    big_left = big_total = lengths[whole[begin[seq_len // 2 + 1] :]].sum() if len(whole) else 0
    while len(window):
        if worth > 1 or fresh == len(heads):
            _longest_first(window, rest)
        base = window[0]
        if fresh == len(heads) and len(window) >= ENOUGH and rest[base] <= seq_len // 2:
            break
        room = seq_len
        # Whole conversations of more than half a row begin rows in turn with the long ones: left to the
        # end they would find nothing to share a row with.
        chain, size = base, _occurring(down, seq_len)
        if 2 * size > seq_len and float(big_left) * long_total > float(long_left) * big_total:
            num_atoms = 0
        else:
            num_atoms = _first_run(lengths, bodies, at, stops, window, down, seq_len, worth)
            size = _length(lengths, bodies, at[chain], num_atoms)
        while size > 0:
            if num_atoms > 0:
                first[num_runs], count[num_runs] = at[chain], num_atoms
                rest[chain] -= size
                at[chain] += num_atoms
                owed = _owed(lengths, bodies, at[chain], stops[chain])
                rest[chain] += owed
                long_left -= size - owed
            else:
                left[size] -= 1
                taken = begin[size] + left[size]
                used[taken] = True
                if left[size] == 0:
                    down[size] = size - 1
                first[num_runs], count[num_runs] = whole[taken], 1
                big_left -= size if 2 * size > seq_len else 0
            row[num_runs] = num_rows
            num_runs += 1
            room -= size
            chain, num_atoms, size, _ = _filling(lengths, bodies, at, stops, window, down, room, worth)
        free[num_rows] = room
        num_rows += 1
        window = window[at[window] < stops[window]]
        more = min(WINDOW - len(window), len(heads) - fresh)
        window = np.concatenate((window, np.arange(fresh, fresh + more)))
        fresh += more
    uncut = window[at[window] < stops[window]]
    ends = (at[uncut], stops[uncut] - at[uncut])
    return first[:num_runs], count[:num_runs], row[:num_runs], free[:num_rows], used, ends


@njit(cache=True)
def _longest_first(window, rest):  # type: ignore[no-untyped-def]
    """Put the chain with most left to the front, so that all of a window end at about one time."""
    longest = 0
    for place in range(1, len(window)):
        if rest[window[place]] > rest[window[longest]]:
            longest = place
    window[0], window[longest] = window[longest], window[0]


@njit(cache=True)
def _stock(lengths, seq_len):  # type: ignore[no-untyped-def]
    """For each length: where its conversations begin, how many there are, the next one that occurs."""
    left = np.zeros(seq_len + 1, np.int32)
    for length in lengths:
        left[length] += 1
    begin = np.cumsum(left) - left
    down = np.arange(seq_len + 1)
    for length in range(1, seq_len + 1):
        if left[length] == 0:
            down[length] = length - 1
    return begin, left, down


@njit(cache=True)
def _first_run(lengths, bodies, at, stops, window, down, seq_len, worth):  # type: ignore[no-untyped-def]
    """How many atoms of the first chain a new row takes, so that with one filling it gains most."""
    chain = window[0]
    position = at[chain]
    most = _longest(lengths, bodies, position, stops[chain], seq_len)
    best, best_gain = most, -1
    for num_atoms in range(most, max(0, most - OPTIONS), -1):
        length = _length(lengths, bodies, position, num_atoms)
        _, _, _, gain = _filling(lengths, bodies, at, stops, window, down, seq_len - length, worth)
        gain += worth * length - _owed(lengths, bodies, position + num_atoms, stops[chain])
        if gain > best_gain:
            best, best_gain = num_atoms, gain
    return best


@njit(cache=True)
def _filling(lengths, bodies, at, stops, window, down, room, worth):  # type: ignore[no-untyped-def]
    """What gains most in ``room``: chain, atoms (0: a whole conversation), tokens (0: nothing), gain.

    ``worth`` is what a filled place gains beside a token that need not be repeated.
    """
    size = _occurring(down, room)
    best_chain, best_atoms, best_size, best_gain = -1, 0, size, worth * size
    for chain in window[1:]:
        position = at[chain]
        stop = stops[chain]
        if position >= stop or lengths[position] > room:
            continue
        context = lengths[position] - bodies[position]
        length, end = lengths[position], position + 1
        while length <= room:
            gain = worth * length - _owed(lengths, bodies, end, stop)
            # A scrap that is mostly repeated context teaches little.
            if gain > best_gain and length >= 2 * context:
                best_chain, best_atoms, best_size, best_gain = chain, end - position, length, gain
            if end == stop:
                break
            length += bodies[end]
            end += 1
    return best_chain, best_atoms, best_size, best_gain


@njit(cache=True)
def _owed(lengths, bodies, position, stop):  # type: ignore[no-untyped-def]
    """Context that has to be repeated because a piece ends before ``position``."""
    return lengths[position] - bodies[position] if position < stop else 0


@njit(cache=True)
def _occurring(down, length):  # type: ignore[no-untyped-def]
    """The longest whole conversation of at most ``length`` tokens, or 0; shortens the way for later."""
    while down[length] != length:
        down[length] = down[down[length]]
        length = down[length]
    return length


@njit(cache=True)
def _longest(lengths, bodies, position, stop, room):  # type: ignore[no-untyped-def]
    """How many atoms from ``position`` on fit into ``room``."""
    total, end = lengths[position], position + 1
    while end < stop and total + bodies[end] <= room:
        total += bodies[end]
        end += 1
    return end - position


@njit(cache=True)
def _length(lengths, bodies, position, num_atoms):  # type: ignore[no-untyped-def]
    """Tokens of a piece of ``num_atoms`` atoms."""
    return lengths[position] + bodies[position + 1 : position + num_atoms].sum()
