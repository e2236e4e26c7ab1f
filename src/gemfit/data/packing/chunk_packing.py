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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.packing.best_fit import pack
from gemfit.data.packing.row_fill import cut_late, fill_rows

TIGHT = (10, 3)
"""Repeated tokens that are spent rather than leave one place empty, where rows are to be full."""
TIGHT_COST = 0.01
"""Share of more rows up to which full ones are preferred to the fewest."""

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


def fit_runs(atoms: Atoms, seq_len: int, *, tight: bool = False) -> Runs:
    """Make pieces of the atoms and put them into rows; every atom is in exactly one piece.

    ``tight`` fills rows to the last token at the price of more pieces, which repeat more context, unless
    that takes one row in a hundred more: for atoms that were cut anywhere.
    """
    longest = longest_pieces(atoms, seq_len)
    if not atoms.linked.any():
        return longest
    fitted = _fitted_pieces(atoms, seq_len, worth=1)
    fewest = fitted if fitted.row[-1] < longest.row[-1] else longest
    if not tight:
        return fewest
    most = fewest.row[-1] * (1 + TIGHT_COST)
    fuller = (_fitted_pieces(atoms, seq_len, worth) for worth in TIGHT)
    return next((runs for runs in fuller if runs.row[-1] <= most), fewest)


def longest_pieces(atoms: Atoms, seq_len: int) -> Runs:
    """Pieces that take all that fits, packed best fit, decreasing."""
    heads, stops = _chains(atoms.linked)
    bodies = atoms.lengths - atoms.context
    first, num_atoms = cut_late(atoms.lengths, bodies, heads, stops, seq_len)
    del bodies, heads, stops
    lengths = _tokens(atoms.lengths, atoms.context, first, num_atoms)
    return _sorted(atoms, first, num_atoms, pack(lengths, seq_len))


def _fitted_pieces(atoms: Atoms, seq_len: int, worth: int) -> Runs:
    heads, stops = _chains(atoms.linked)
    alone = stops - heads == 1
    whole = heads[alone]
    bodies = atoms.lengths - atoms.context
    chains = np.flatnonzero(~alone)
    totals = np.add.reduceat(bodies, heads, dtype=np.int64)[chains]
    # Longest first, so that the last rows are made of conversations that need few.
    chains = chains[np.argsort(-totals, kind="stable")]
    by_length = whole[np.argsort(atoms.lengths[whole], kind="stable")]
    first, num_atoms, row, free, used, ends = fill_rows(
        atoms.lengths, bodies, heads[chains], stops[chains], by_length, seq_len, worth
    )
    left = np.sort(by_length[~used])
    first = np.concatenate([first, ends[0], left])
    num_atoms = np.concatenate([num_atoms, ends[1], np.ones_like(left)])
    lengths = _tokens(atoms.lengths, atoms.context, first, num_atoms)
    row = np.concatenate([row, pack(lengths[len(row) :], seq_len, free)])
    return _sorted(atoms, first, num_atoms, row)


def _chains(linked: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First atom of each conversation, and the one after its last."""
    heads = np.flatnonzero(~linked).astype(np.int32)
    return heads, np.append(heads[1:], np.int32(len(linked)))[: len(heads)]


def _tokens(lengths: Ints, context: Ints, first: Ints, num_atoms: Ints) -> Ints:
    """Length of each piece: its bodies, and the context of its first atom."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths - context, dtype=np.int64)])
    return (before[first + num_atoms] - before[first] + context[first]).astype(np.int32)


def _sorted(atoms: Atoms, first: Ints, num_atoms: Ints, row: Ints) -> Runs:
    order = np.lexsort((first, row))
    first, num_atoms = first[order], num_atoms[order]
    return Runs(first, num_atoms, _tokens(atoms.lengths, atoms.context, first, num_atoms), row[order])
