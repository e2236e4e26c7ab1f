"""Packing, by properties and against a slow reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gemfit.data.pack import pack

LENGTHS = st.lists(st.integers(1, 64), max_size=200)


def as_lengths(lengths: list[int]) -> NDArray[np.int32]:
    return np.array(lengths, np.int32)


def first_fit(lengths: list[int], seq_len: int) -> int:
    """Rows that first fit, decreasing, needs."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        row = next((i for i, room in enumerate(free) if room >= length), None)
        if row is None:
            free.append(seq_len - length)
        else:
            free[row] -= length
    return len(free)


def best_fit(lengths: list[int], seq_len: int) -> list[int]:
    """The free places of each row under best fit, decreasing, the obvious way; sorted."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        rooms = [room for room in free if room >= length]
        if rooms:
            free.remove(min(rooms))
        free.append((min(rooms) if rooms else seq_len) - length)
    return sorted(free)


@given(lengths=LENGTHS)
def test_every_document_is_in_one_row_and_no_row_is_overfull(lengths: list[int]) -> None:
    rows = pack(as_lengths(lengths), 64)
    assert rows.shape == (len(lengths),)
    assert set(rows.tolist()) == set(range(max(rows, default=-1) + 1))
    filled = np.bincount(rows, weights=lengths, minlength=0)
    assert (filled <= 64).all()


@given(lengths=LENGTHS)
def test_the_bitmap_finds_what_the_obvious_best_fit_finds(lengths: list[int]) -> None:
    rows = pack(as_lengths(lengths), 64)
    filled = np.bincount(rows, weights=lengths, minlength=0)
    assert sorted(64 - filled) == best_fit(lengths, 64)


@given(lengths=LENGTHS)
def test_no_two_rows_could_have_been_one(lengths: list[int]) -> None:
    filled = np.bincount(pack(as_lengths(lengths), 64), weights=lengths, minlength=0)
    two_emptiest = np.sort(filled)[:2]
    assert len(filled) < 2 or two_emptiest.sum() > 64


def test_real_lengths_need_no_more_rows_than_first_fit() -> None:
    rng = np.random.default_rng(0)
    for seq_len in (200, 1024, 4097):
        lengths = np.clip(rng.lognormal(5, 1, 3000).astype(np.int32), 1, seq_len)
        rows = int(pack(lengths, seq_len).max()) + 1
        assert rows <= first_fit(lengths.tolist(), seq_len)
        assert lengths.sum() / (rows * seq_len) > 0.99


def test_equal_lengths_keep_the_order_of_the_documents() -> None:
    assert pack(as_lengths([32] * 6), 64).tolist() == [0, 0, 1, 1, 2, 2]
    assert pack(as_lengths([64] * 3), 64).tolist() == [0, 1, 2]


def test_nothing_packs_into_no_rows() -> None:
    assert pack(as_lengths([]), 64).shape == (0,)
