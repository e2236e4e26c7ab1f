"""Decide what every row holds, from the columns of all conversations at once.

Conversations are taken in the order of their digests, so the rows depend neither on the order of the
input nor on who made the parts. Rows are put into an order drawn from their number alone, because best
fit leaves them sorted by length. Cost: some 50 bytes a conversation, a second for five million.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.building.shards import SplitPlan
from gemfit.data.building.talks import Talks
from gemfit.data.content.choose import Choice
from gemfit.data.order import epoch_order
from gemfit.data.packing.runs import Atoms, Runs, fit_runs
from gemfit.data.reading.columns import Ints

_ORDER_SEED = 0x67656D
SPLITS = ("train", "validation")
"""By their numbers in ``Choice.split``."""


def plan_split(talks: Talks, choice: Choice, split: int, seq_len: int, *, tight: bool) -> SplitPlan:
    """The rows of one split (an index into ``SPLITS``); ``tight`` as of ``fit_runs``."""
    order = choice.order[choice.split[choice.order] == split]
    atoms = atoms_of(talks, np.repeat(order, choice.copies[order]))
    places = talks.places
    fitted = Atoms(places.lengths[atoms], places.context[atoms], talks.linked[atoms])
    runs = fit_runs(fitted, seq_len, tight=tight)
    return _permuted(SPLITS[split], runs, atoms, choice.numbers()[_owners(talks, atoms[runs.first])])


def atoms_of(talks: Talks, conversations: NDArray[np.int64]) -> NDArray[np.int64]:
    """The atoms of these conversations, one conversation after another."""
    start = talks.first_atom[conversations]
    counts = talks.first_atom[conversations + 1] - start
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(start - ends + counts, counts)


def order_rows(rows: int) -> NDArray[np.int64]:
    """Which row comes at each place: (rows,), a permutation fixed by their number alone."""
    return epoch_order(_ORDER_SEED, rows, rows)


def _owners(talks: Talks, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The conversation of each atom."""
    return np.searchsorted(talks.first_atom, atoms, side="right") - 1


def _permuted(name: str, runs: Runs, atoms: NDArray[np.int64], document: NDArray[np.int64]) -> SplitPlan:
    """Pieces in the final order of their rows. document: (pieces,)."""
    rows = int(runs.row[-1]) + 1 if len(runs.row) else 0
    place: Ints = np.empty(rows, np.int32)
    place[order_rows(rows)] = np.arange(rows, dtype=np.int32)
    row = place[runs.row]
    pieces = np.argsort(row, kind="stable")
    return SplitPlan(
        name=name,
        first=atoms[runs.first[pieces]],
        num_atoms=runs.num_atoms[pieces],
        lengths=runs.lengths[pieces],
        document=document[pieces],
        row_ends=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=rows))]),
    )
