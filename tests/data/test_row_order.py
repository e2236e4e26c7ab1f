"""The order of rows in a pack: fixed by their number, and blind to what they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemfit.data.build.row_plan import order_rows
from gemfit.data.packing.best_fit import pack


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's, ties in the order of their places."""
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (one, other)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def test_the_order_is_a_permutation_that_depends_on_the_number_of_rows_alone() -> None:
    assert sorted(order_rows(1000).tolist()) == list(range(1000))
    assert order_rows(1000).tolist() == order_rows(1000).tolist()
    assert order_rows(8).tolist() == [1, 4, 0, 6, 7, 3, 2, 5]
    assert order_rows(0).tolist() == []


def test_neither_length_nor_place_in_the_file_says_where_in_the_order_a_conversation_stands() -> None:
    rng = np.random.default_rng(7)
    # Sorted files are the worst case: length and place go together.
    lengths = np.sort(np.clip(rng.lognormal(5.2, 1, 20_000), 1, 1024)).astype(np.int32)
    rows = pack(lengths, 1024)
    place = np.empty(rows.max() + 1)
    place[order_rows(len(place))] = np.arange(len(place))
    # Best fit alone sorts rows by length: without the permutation this test would see it.
    assert abs(rank_correlation(rows.astype(float), lengths.astype(float))) > 0.5
    # Rows move together, so chance gives 1 / sqrt(rows) = 0.013 at most; three times that is the bound.
    assert len(place) > 5000
    assert abs(rank_correlation(place[rows], lengths.astype(float))) < 0.04
    assert abs(rank_correlation(place[rows], np.arange(len(rows), dtype=float))) < 0.04
