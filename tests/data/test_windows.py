"""Windows: every document once, bounded memory, and few rows more than with all lengths at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gemfit.data.packing.best_fit import fewest_rows, pack
from gemfit.data.packing.streaming import pack_any, pack_windows

LENGTHS = st.lists(st.integers(1, 64), max_size=200)


def chunked(lengths: NDArray[np.int32], size: int) -> Iterator[NDArray[np.int32]]:
    return (lengths[start : start + size] for start in range(0, len(lengths), size))


@given(lengths=LENGTHS, size=st.integers(1, 300), pool_rows=st.integers(1, 8))
def test_every_document_is_in_one_row_of_one_window(lengths: list[int], size: int, pool_rows: int) -> None:
    flat = np.array(lengths, np.int32)
    windows = list(pack_windows(chunked(flat, size), 64, pool_rows))
    assert sorted(np.concatenate([[], *(w.documents for w in windows)])) == list(range(len(flat)))
    for documents, rows in windows:
        assert set(rows.tolist()) == set(range(rows[-1] + 1))
        assert (np.diff(rows) >= 0).all()
        assert (np.bincount(rows, weights=flat[documents]) <= 64).all()


@given(lengths=LENGTHS, pool_rows=st.integers(1, 8))
def test_the_size_of_the_chunks_changes_no_row(lengths: list[int], pool_rows: int) -> None:
    flat = np.array(lengths, np.int32)
    one, other = (list(pack_windows(chunked(flat, size), 64, pool_rows)) for size in (1, 300))
    assert [w.documents.tolist() for w in one] == [w.documents.tolist() for w in other]
    assert [w.rows.tolist() for w in one] == [w.rows.tolist() for w in other]


def test_an_input_that_never_ends_gives_rows_and_no_document_waits_far_behind() -> None:
    endless = (np.random.default_rng(i).integers(1, 65, 50).astype(np.int32) for i in count())
    windows = list(islice(pack_windows(endless, 64, 32), 200))
    newest = [int(window.documents.max()) for window in windows]
    seen = sum(len(window.documents) for window in windows)
    # 32 rows of 64 hold some 63 of these documents.
    assert max(newest) + 1 - seen < 200


def test_the_larger_the_pool_the_fewer_the_rows() -> None:
    rng = np.random.default_rng(3)
    short, near = rng.integers(20, 400, 20_000), rng.integers(1500, 2000, 20_000)
    lengths = np.where(rng.random(20_000) < 0.8, short, near).astype(np.int32)
    bound = fewest_rows(lengths, 2048)
    excess = [
        sum(int(window.rows[-1]) + 1 for window in pack_windows(chunked(lengths, 1000), 2048, pool)) / bound
        - 1
        for pool in (16, 64, 512)
    ]
    assert excess[0] > excess[1] > excess[2]
    assert excess[1] < 0.005
    assert excess[2] < 0.001


@given(lengths=LENGTHS, free=st.lists(st.integers(0, 64), max_size=20), at_once=st.integers(1, 100))
def test_more_documents_than_are_packed_at_once_go_through_windows(
    lengths: list[int], free: list[int], at_once: int
) -> None:
    flat, started = np.array(lengths, np.int32), np.array(free, np.int32)
    rows = pack_any(flat, 64, started, at_once)
    room = np.full(max([len(free), *(rows + 1).tolist()]), 64)
    room[: len(free)] = free
    assert (np.bincount(rows, weights=flat, minlength=len(room)) <= room).all()
    assert set(range(len(free), len(room))) <= set(rows.tolist())


def test_few_documents_are_packed_as_ever() -> None:
    lengths = np.random.default_rng(5).integers(1, 65, 300).astype(np.int32)
    assert pack_any(lengths, 64).tolist() == pack(lengths, 64).tolist()
