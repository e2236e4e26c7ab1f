"""Runs of atoms: every atom once, no row overfull, and rows fuller than without the choice."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gemfit.data.packing.best_fit import pack
from gemfit.data.packing.chunk_packing import Atoms, Runs, fit_runs

SEQ_LEN = 64


@st.composite
def atoms(draw: st.DrawFn) -> Atoms:
    """Conversations of one or more atoms, each of which fits into a row."""
    lengths, context, linked = [], [], []
    for parts in draw(st.lists(st.integers(1, 12), max_size=40)):
        for part in range(parts):
            before = draw(st.integers(1, SEQ_LEN // 2)) if part else 0
            lengths.append(before + draw(st.integers(1, SEQ_LEN - before)))
            context.append(before)
            linked.append(part > 0)
    return Atoms(np.array(lengths, np.int32), np.array(context, np.int32), np.array(linked, np.bool_))


def piece_lengths(atoms: Atoms, runs: Runs) -> list[int]:
    bodies = atoms.lengths - atoms.context
    return [
        int(atoms.context[first] + bodies[first : first + count].sum())
        for first, count in zip(runs.first, runs.num_atoms, strict=True)
    ]


@settings(max_examples=300)
@given(atoms=atoms(), tight=st.booleans())
def test_every_atom_is_in_one_piece_and_no_row_is_overfull(atoms: Atoms, tight: bool) -> None:
    runs = fit_runs(atoms, SEQ_LEN, tight=tight)
    pieces = zip(runs.first, runs.num_atoms, strict=True)
    assert sorted(i for first, count in pieces for i in range(first, first + count)) == list(
        range(len(atoms.lengths))
    )
    assert runs.lengths.tolist() == piece_lengths(atoms, runs)
    assert (np.bincount(runs.row, weights=runs.lengths, minlength=0) <= SEQ_LEN).all()
    assert set(runs.row.tolist()) == set(range(max(runs.row.tolist(), default=-1) + 1))


@settings(max_examples=300)
@given(atoms=atoms(), tight=st.booleans())
def test_a_piece_goes_on_only_with_linked_atoms(atoms: Atoms, tight: bool) -> None:
    runs = fit_runs(atoms, SEQ_LEN, tight=tight)
    for first, count in zip(runs.first, runs.num_atoms, strict=True):
        assert atoms.linked[first + 1 : first + count].all()


@settings(max_examples=300)
@given(atoms=atoms())
def test_the_choice_never_needs_more_rows_than_the_longest_pieces(atoms: Atoms) -> None:
    runs = fit_runs(atoms, SEQ_LEN)
    assert max(runs.row.tolist(), default=-1) + 1 <= greedy_rows(atoms, SEQ_LEN)


@given(atoms=atoms())
def test_pieces_stand_by_row_and_in_input_order(atoms: Atoms) -> None:
    runs = fit_runs(atoms, SEQ_LEN)
    keys = list(zip(runs.row.tolist(), runs.first.tolist(), strict=True))
    assert keys == sorted(keys)


def conversations(count: int, seed: int) -> Atoms:
    """Ten exchanges of some 60 tokens each, after 30 tokens of system message: rows of 512 hold seven."""
    rng = np.random.default_rng(seed)
    bodies = rng.integers(20, 101, (count, 10))
    context = np.tile(np.array([0] + [30] * 9), count)
    linked = np.tile(np.arange(10) > 0, count)
    return Atoms((bodies.ravel() + context).astype(np.int32), context.astype(np.int32), linked)


def greedy_rows(atoms: Atoms, seq_len: int) -> int:
    """Rows where each piece takes as many atoms as fit, and best fit packs the pieces."""
    pieces: list[int] = []
    for length, context, linked in zip(*map(np.ndarray.tolist, atoms), strict=True):
        if linked and pieces[-1] + length - context <= seq_len:
            pieces[-1] += length - context
        else:
            pieces.append(length)
    return max(pack(np.array(pieces, np.int32), seq_len).tolist(), default=-1) + 1


def test_rows_of_long_conversations_come_out_fuller_than_with_greedy_cuts() -> None:
    atoms = conversations(300, seed=3)
    runs = fit_runs(atoms, 1024)
    rows = int(runs.row.max()) + 1
    assert runs.lengths.sum() / (rows * 1024) > 0.98
    assert rows < 0.8 * greedy_rows(atoms, 1024)


def test_a_single_long_conversation_is_cut_into_as_few_rows_as_it_can_be() -> None:
    atoms = conversations(1, seed=1)
    runs = fit_runs(atoms, 512)
    assert int(runs.row.max()) + 1 == greedy_rows(atoms, 512) == len(runs.row) == 2


def test_whole_conversations_alone_are_packed_best_fit_decreasing() -> None:
    lengths = np.random.default_rng(1).integers(1, SEQ_LEN + 1, 500).astype(np.int32)
    whole = Atoms(lengths, np.zeros(500, np.int32), np.zeros(500, np.bool_))
    runs = fit_runs(whole, SEQ_LEN)
    rows = np.empty(500, np.int32)
    rows[runs.first] = runs.row
    assert rows.tolist() == pack(lengths, SEQ_LEN).tolist()


def test_rows_of_long_conversations_that_may_be_cut_anywhere_are_full() -> None:
    rng = np.random.default_rng(5)
    # 200 conversations of 80 cuts, each after some 100 tokens and with 30 to 200 tokens to repeat.
    bodies, context = rng.integers(60, 130, (200, 80)), rng.integers(30, 201, (200, 80))
    context[:, 0] = 0
    linked = np.tile(np.arange(80) > 0, 200)
    lengths = (bodies + context).ravel().astype(np.int32)
    atoms = Atoms(lengths, context.ravel().astype(np.int32), linked)
    fills = [
        runs.lengths.sum() / ((int(runs.row[-1]) + 1) * 1024)
        for runs in (fit_runs(atoms, 1024), fit_runs(atoms, 1024, tight=True))
    ]
    assert fills[1] > max(fills[0] + 0.005, 0.994)


def test_more_long_conversations_than_the_window_holds_are_all_packed() -> None:
    atoms = conversations(400, seed=2)
    runs = fit_runs(atoms, 512)
    assert runs.num_atoms.sum() == 4000
