"""Best-fit decreasing, by properties and against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gemfit.data.packing.best_fit import fewest_rows, pack

LENGTHS = st.lists(st.integers(1, 64), max_size=200)
FREE = st.lists(st.integers(0, 64), max_size=20)


def as_lengths(lengths: list[int]) -> NDArray[np.int32]:
    return np.array(lengths, np.int32)


def best_fit(lengths: list[int], seq_len: int) -> list[int]:
    """Reference: the free places of each row under best-fit decreasing, sorted."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [places for places in free if places >= length]
        if fitting:
            free.remove(min(fitting))
        free.append((min(fitting) if fitting else seq_len) - length)
    return sorted(free)


def contents(lengths: NDArray[np.int32], rows: NDArray[np.int32]) -> list[list[int]]:
    """The lengths in each row, whatever the numbers of rows and documents."""
    return sorted(sorted(lengths[rows == row].tolist()) for row in set(rows.tolist()))


def conversations(count: int, seed: int, seq_len: int) -> NDArray[np.int32]:
    """Lengths like those of chats, mean 300, split into rows."""
    lengths = np.clip(np.random.default_rng(seed).lognormal(5.2, 1, count), 1, 4096).astype(np.int32)
    rest = lengths % seq_len
    full = np.full(int((lengths // seq_len).sum()), seq_len, np.int32)
    return np.concatenate([full, rest[rest > 0]]).astype(np.int32)


def bimodal(count: int, seed: int, seq_len: int) -> NDArray[np.int32]:
    """Lengths of short documents, and of documents of nearly a row."""
    rng = np.random.default_rng(seed)
    short = np.clip(rng.lognormal(np.log(seq_len / 8), 0.8, count), 1, seq_len)
    near = np.clip(rng.normal(0.9 * seq_len, 0.05 * seq_len, count), 1, seq_len)
    return np.where(rng.random(count) < 0.3, near, short).astype(np.int32)


@pytest.mark.parametrize("seq_len", [2**16 - 1, 2**16])
def test_rows_beyond_16_bits_are_packed_like_shorter_ones(seq_len: int) -> None:
    lengths = np.random.default_rng(0).integers(1, seq_len + 1, 300).astype(np.int32)
    filled = np.bincount(pack(lengths, seq_len), weights=lengths).astype(int)
    assert sorted((seq_len - filled).tolist()) == best_fit(lengths.tolist(), seq_len)


@given(lengths=LENGTHS)
def test_every_document_is_in_one_row_and_no_row_is_overfull(lengths: list[int]) -> None:
    rows = pack(as_lengths(lengths), 64)
    assert rows.shape == (len(lengths),)
    assert set(rows.tolist()) == set(range(max(rows, default=-1) + 1))
    assert (np.bincount(rows, weights=lengths, minlength=0) <= 64).all()


@given(lengths=LENGTHS)
def test_the_bitset_finds_the_rows_of_the_reference(lengths: list[int]) -> None:
    rows = pack(as_lengths(lengths), 64)
    filled = np.bincount(rows, weights=lengths, minlength=0)
    assert sorted(64 - filled) == best_fit(lengths, 64)


@pytest.mark.parametrize("seq_len", [63, 64, 4095, 4096, 4097, 20_000])
def test_long_rows_are_filled_as_by_the_reference(seq_len: int) -> None:
    lengths = np.random.default_rng(seq_len).integers(1, seq_len + 1, 400).astype(np.int32)
    filled = np.bincount(pack(lengths, seq_len), weights=lengths)
    assert sorted(seq_len - filled) == best_fit(lengths.tolist(), seq_len)


@settings(max_examples=300)
@given(lengths=LENGTHS)
def test_never_more_rows_than_best_fit_nor_fewer_than_the_bound(lengths: list[int]) -> None:
    rows = max(pack(as_lengths(lengths), 64).tolist(), default=-1) + 1
    assert fewest_rows(as_lengths(lengths), 64) <= rows <= len(best_fit(lengths, 64))


@given(lengths=LENGTHS, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_documents_changes_nothing_but_their_numbers(lengths: list[int], seed: int) -> None:
    given_order = as_lengths(lengths)
    other_order = np.random.default_rng(seed).permutation(given_order)
    assert contents(given_order, pack(given_order, 64)) == contents(other_order, pack(other_order, 64))
    assert pack(given_order, 64).tolist() == pack(given_order.copy(), 64).tolist()


@settings(max_examples=300)
@given(lengths=LENGTHS, free=FREE)
def test_partly_filled_rows_are_filled_and_keep_their_numbers(lengths: list[int], free: list[int]) -> None:
    rows = pack(as_lengths(lengths), 64, as_lengths(free))
    capacity = np.full(max([len(free), *(rows + 1).tolist()]), 64)
    capacity[: len(free)] = free
    assert (np.bincount(rows, weights=lengths, minlength=len(capacity)) <= capacity).all()
    fresh = {row for row in rows.tolist() if row >= len(free)}
    assert fresh == set(range(len(free), len(free) + len(fresh)))
    if lengths:
        assert len(capacity) >= fewest_rows(as_lengths(lengths), 64, as_lengths(free))


@pytest.mark.parametrize("seq_len", [1024, 2048, 8192])
def test_rows_of_chats_are_as_few_as_the_tokens_need(seq_len: int) -> None:
    lengths = conversations(50_000, 1, seq_len)
    rows, bound = int(pack(lengths, seq_len).max()) + 1, fewest_rows(lengths, seq_len)
    assert rows <= bound + 2


@pytest.mark.parametrize("seq_len", [1024, 2048, 8192])
def test_rows_of_short_and_of_nearly_full_documents_are_full(seq_len: int) -> None:
    lengths = bimodal(50_000, 2, seq_len)
    assert lengths.sum() / ((int(pack(lengths, seq_len).max()) + 1) * seq_len) >= 0.9997


def test_equal_lengths_keep_the_order_of_the_documents() -> None:
    assert pack(as_lengths([32] * 6), 64).tolist() == [0, 0, 1, 1, 2, 2]
    assert pack(as_lengths([64] * 3), 64).tolist() == [0, 1, 2]


def test_no_documents_give_no_rows() -> None:
    assert pack(as_lengths([]), 64).shape == (0,)
