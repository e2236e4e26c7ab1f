"""A run that is killed, or whose checkpoints are damaged, goes on from the newest whole one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.dist, pytest.mark.slow]

KILLS = 6
FILES = {
    ".metadata",
    "__0_0.distcp",
    "__1_0.distcp",
    "config.json",
    "manifest.json",
    "manifest.xxh3",
    "progress.json",
}


def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(measure: Callable[..., Any]) -> None:
    # The benchmark itself stops where an attempt resumes from another step than the newest whole one,
    # where it does not name what it passes over, and where a loss differs in a single bit.
    found = measure("tests/checkpoints/kill.py", "--kills", str(KILLS), "--seed", "3", timeout_seconds=300)
    assert found["kills"] == KILLS == len(found["each"])
    # It saves every two steps, asynchronously, and may lose two.
    assert all(0 <= kill["reached"] - kill["resumed"] <= 2 for kill in found["each"])
    assert found["attempts_that_went_on"] >= 2
    assert found["steps"] > 2


def test_each_file_truncated_flipped_or_removed_is_passed_over_and_named(measure: Callable[..., Any]) -> None:
    cases = measure("tests/checkpoints/damage.py", timeout_seconds=300)
    for strategy in ("fsdp2", "zero3"):
        here = [case for case in cases if case["strategy"] == strategy]
        assert {case["file"] for case in here} >= FILES
        assert len(here) == 3 * len({case["file"] for case in here})
    assert [case for case in cases if case["chosen"] != 2 or not case["named"]] == []
