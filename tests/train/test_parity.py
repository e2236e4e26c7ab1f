"""What is trained is what a plain loop trains, one that shares no line of training with gemfit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

WAYS = ("single", "zero2", "per-device batch of 1", "attention flex_attention")
FEW_STEPS = 1e-6
"""Of a relative difference in float32 after three steps; rounding has had no time to grow."""


@pytest.mark.slow
@pytest.mark.dist
def test_every_loss_is_that_of_a_plain_loop_over_documents_alone(measure: Callable[..., Any]) -> None:
    options = ("--steps", "3", "--ranks", "2", "--only", ",".join(WAYS))
    found = measure("tests/train/parity.py", *options, timeout_seconds=400)
    ways = found["ways"]
    assert "no backward pass on CPUs" in ways.pop("attention flex_attention on 1")["absent"]
    assert list(ways) == ["single on 1", "zero2 on 2", "per-device batch of 1 on 1"]
    assert all(way["difference"] <= FEW_STEPS for way in ways.values())
    assert found["reference"][0] != pytest.approx(found["reference"][-1]), "nothing was trained"
