"""Shards, collectives and peaks of 64 and 512 ranks, over torch's fake process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Answer = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def answer(measure: Callable[..., Any]) -> Answer:
    """What a script of tests/memory found, by case."""

    def ask(script: str, *cases: str) -> dict[str, dict[str, Any]]:
        results = measure(f"tests/memory/{script}", "--cases", *cases, timeout_seconds=500)
        found = {result["case"]: result for result in results}
        assert set(found) == set(cases)
        return found

    return ask


@pytest.mark.slow
def test_each_element_is_in_one_shard_of_a_checkpoint_and_rank_0_holds_what_is_predicted(
    answer: Answer,
) -> None:
    for case, found in answer("fake_ranks.py", "fsdp2:1b:64", "fsdp2:27b:64", "zero3:27b:512").items():
        assert found["wrong"] == [], case
        assert found["elements"] > 100_000_000, case
        assert found["held"] == found["predicted"], case


@pytest.mark.slow
def test_all_ranks_take_part_in_the_same_collectives_and_need_what_is_predicted(answer: Answer) -> None:
    first, *others = found = list(
        answer("fsdp2_peaks.py", "1b:64:0:2", "1b:64:31:2", "1b:64:63:2", "1b:512:511:2").values()
    )
    names = [call.partition(" ")[0] for call in first["collectives"]]
    # Two accumulation steps, of two layers and the rest: gathered twice, reduced once.
    assert names == [*["_allgather_base_"] * 6, *["_reduce_scatter_base_"] * 3] * 2
    assert [other["collectives"] for other in others[:2]] == [first["collectives"]] * 2
    assert max(abs(result["difference"]) for result in found) < 0.1


@pytest.mark.slow
def test_zero_needs_what_is_predicted(answer: Answer) -> None:
    found = answer("zero_peaks.py", "zero1:4b:64:1", "zero2:27b:64:1", "zero3:4b:64:1")
    assert max(abs(result["difference"]) for result in found.values()) < 0.1
