"""Decide what every row holds, from the columns of all conversations at once.

Conversations are taken in the order of their digests, so the rows depend neither on the order of the
input nor on who made the parts. Rows are put into an order drawn from their number alone, because best
fit leaves them sorted by length. Memory of a million conversations of 1.6 million atoms: 120 MB on the way,
and 25 MB in the end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.build.conversation_table import MOST_ATOMS, ConversationTable
from gemfit.data.build.shards import SplitPlan
from gemfit.data.column_file import stretches
from gemfit.data.compiled import njit
from gemfit.data.filter.selection import Choice
from gemfit.data.jsonl.message_batch import Ints
from gemfit.data.pack.shuffle import rows_at
from gemfit.data.packing.chunk_packing import Atoms, fit_runs
from gemfit.errors import UserError

_ORDER_SEED = 0x67656D
SPLITS = ("train", "validation")
"""By their numbers in ``Choice.split``."""


def plan_split(
    talks: ConversationTable, choice: Choice, split: int, seq_len: int, *, tight: bool
) -> SplitPlan:
    """The rows of one split (an index into ``SPLITS``); ``tight`` as of ``fit_runs``."""
    numbers = np.flatnonzero(choice.split[choice.order] == split).astype(np.int32)
    atoms, fitted, heads = _atoms_of(talks, choice, numbers)
    runs = fit_runs(fitted, seq_len, tight=tight)
    del fitted
    pieces, row_ends = _permuted(runs.row, order_rows(int(runs.row[-1]) + 1 if len(runs.row) else 0))
    document, first = np.empty(len(pieces), np.int32), np.empty(len(pieces), np.int32)
    for here in stretches(len(pieces)):
        begin = runs.first[pieces[here]]
        document[here] = numbers[np.searchsorted(heads, begin, "right") - 1]
        first[here] = atoms[begin]
    del atoms, heads
    return SplitPlan(
        name=SPLITS[split],
        first=first,
        num_atoms=runs.num_atoms[pieces],
        lengths=runs.lengths[pieces],
        document=document,
        row_ends=row_ends,
    )


def order_rows(rows: int) -> Ints:
    """Which row comes at each place: (rows,), a permutation fixed by their number alone."""
    order = np.empty(rows, np.int32)
    for here in stretches(rows):
        order[here] = rows_at(np.arange(here.start, here.stop), seed=_ORDER_SEED, epoch=rows, rows=rows)
    return order


def _atoms_of(talks: ConversationTable, choice: Choice, numbers: Ints) -> tuple[Ints, Atoms, Ints]:
    """The atoms of conversations, each as often as it is copied, one conversation after another.

    numbers: (chosen,), in canonical order. Returns the number of each atom among all, what rows are made
    of, and where each conversation begins: (chosen,).
    """
    chosen = choice.order[numbers]
    copies = choice.copies[chosen]
    begin = talks.atom_ends[chosen - 1]
    begin[chosen == 0] = 0
    ends = np.cumsum((talks.atom_ends[chosen] - begin) * copies, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total > MOST_ATOMS:
        raise UserError(
            f"data: {total:,} pieces of conversations, each as often as its weight says, are more than "
            f"{MOST_ATOMS:,}; lower `weight`, or make several packs"
        )
    heads = np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])[:-1]
    # Columns are read in the order that they have on disk, and written to where they are wanted.
    wanted = np.full(len(talks), -1, np.int32)
    wanted[chosen] = heads
    found = np.empty(total, np.int32)
    atoms = Atoms(np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.bool_))
    for here in talks.stretches():
        ends_here = np.asarray(talks.atom_ends[here])
        start = int(talks.atom_ends[here.start - 1]) if here.start else 0
        own = np.asarray(talks.atoms[start : ends_here[-1]])
        _scatter(own, start, ends_here, wanted[here], choice.copies[here], found, *atoms)
    return found, atoms, heads


@njit
def _scatter(atoms, start, ends, wanted, copies, found, lengths, context, linked):  # type: ignore[no-untyped-def]
    """Write the atoms of some conversations from their places on; ``start`` is the number of the first."""
    number = start
    for conversation in range(len(ends)):
        begin, at = number, wanted[conversation]
        number = ends[conversation]
        if at < 0:
            continue
        for _ in range(copies[conversation]):
            for index in range(begin, number):
                atom = atoms[index - start]
                found[at], lengths[at], context[at], linked[at] = (
                    index,
                    atom.length,
                    atom.context,
                    atom.linked,
                )
                at += 1


def _permuted(row: Ints, order: Ints) -> tuple[Ints, NDArray[np.int64]]:
    """Pieces in the final order of their rows, and where those of each end: (rows + 1,).

    row: (pieces,), not decreasing. order: (rows,), the row at each place.
    """
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    pieces = np.argsort(place[row], kind="stable").astype(np.int32)
    counts = np.bincount(row, minlength=len(order))[order]
    return pieces, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
