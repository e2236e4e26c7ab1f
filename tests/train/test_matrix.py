"""A checkpoint of any strategy on any number of ranks goes on under any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.dist, pytest.mark.slow]

STRATEGIES = ("single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3", "zero3+offload")


@pytest.fixture(scope="module")
def pairs(measure: Callable[..., Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = measure(
        "tests/checkpoints/matrix.py", "--subset", "ci", timeout_seconds=540
    )
    return found


def test_every_strategy_is_read_by_every_strategy_and_every_size_by_every_size(
    pairs: list[dict[str, Any]],
) -> None:
    strategies = {(pair["saved"]["strategy"], pair["read"]["strategy"]) for pair in pairs}
    sizes = {(pair["saved"]["ranks"], pair["read"]["ranks"]) for pair in pairs}
    assert strategies == {(saved, read) for saved in STRATEGIES for read in STRATEGIES}
    assert sizes == {(saved, read) for saved in (1, 2, 4) for read in (1, 2, 4)}


def test_every_degree_is_read_by_every_degree_under_each_strategy(pairs: list[dict[str, Any]]) -> None:
    degrees = {(pair["saved"]["degree"], pair["read"]["degree"]) for pair in pairs}
    assert degrees == {(saved, read) for saved in (1, 2, 4) for read in (1, 2, 4)}
    for side in ("saved", "read"):
        sharing = {pair[side]["strategy"] for pair in pairs if pair[side]["degree"] > 1}
        assert sharing == {"ddp", "fsdp2", "hsdp", "zero2", "zero3"}


def test_the_next_ten_losses_are_those_of_one_rank_that_never_stopped(pairs: list[dict[str, Any]]) -> None:
    far = [pair for pair in pairs if not pair["loss_difference"] <= 1e-5]
    assert far == []


def test_the_next_ten_steps_take_the_same_rows(pairs: list[dict[str, Any]]) -> None:
    assert [pair for pair in pairs if not pair["rows_equal"]] == []


def test_what_a_layout_saved_it_reads_bit_for_bit(pairs: list[dict[str, Any]]) -> None:
    same = [pair for pair in pairs if pair["saved"] == pair["read"]]
    assert len(same) >= 7
    assert [pair for pair in same if not pair["exact"]] == []
