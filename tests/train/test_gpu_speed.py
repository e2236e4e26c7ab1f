"""The benchmark of one GPU works: small everywhere, and with default sizes where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Measure = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.dist
def test_the_benchmark_of_one_gpu_works_small_and_says_what_it_measured(measure: Measure) -> None:
    options = ("--sizes", "scratch", "--without-trl", "--steps", "3")
    [found] = measure("benchmarks/gpu_speed.py", *options, timeout_seconds=300)
    assert found["ours"]["tokens_per_second"] > 0
    assert len(found["ours"]["losses"]) == 6
    assert found["predicted_tensor_bytes"] < found["predicted_bytes"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_tensors_and_what_the_allocator_holds_are_measured(measure: Measure) -> None:
    options = ("--sizes", "scratch", "--without-trl", "--steps", "3")
    [found] = measure("benchmarks/gpu_speed.py", *options, timeout_seconds=300)
    assert found["device"] == "cuda"
    assert found["ours"]["gpu_peak_bytes"] > 0
    assert found["ours"]["gpu_reserved_bytes"] >= found["ours"]["gpu_peak_bytes"]
