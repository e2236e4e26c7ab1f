"""What was trained in shards is exported whole, and answers like the engine that trained it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(measure: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = measure("tests/checkpoints/export.py", timeout_seconds=300)
    return seen


@pytest.mark.parametrize("strategy", ["zero3", "zero3+offload", "fsdp2", "zero2"])
def test_the_exported_model_has_the_logits_of_the_live_engine(
    found: dict[str, dict[str, Any]], strategy: str
) -> None:
    seen = found[strategy]
    assert seen["class"] == "Gemma3ForCausalLM"
    assert seen["moved_by_training"] > 0.01, "a model that was not trained would pass"
    assert seen["difference"] <= 1e-5 * seen["largest_logit"]
    assert seen["same_tokens"]
