"""Loss and accuracy on the validation split."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gemfit.rundir import RunDir
from gemfit.train.distributed.stop import Stop
from gemfit.train.loop.validation_loop import ValidationResult, evaluate_rows


class Model(torch.nn.Module):
    """Says the same about every batch."""

    def forward(self, targets: torch.Tensor) -> Any:
        trained = (targets != -100).sum()
        return SimpleNamespace(loss_sum=2.0 * trained, correct=trained // 2)


def batch(trained: int) -> dict[str, Any]:
    return {"targets": torch.tensor([[1] * trained + [-100] * (8 - trained)])}


def run(batches: list[dict[str, Any]], stop: Stop) -> ValidationResult | None:
    return evaluate_rows(Model(), batches, stop=stop, step=5, device=torch.device("cpu"))


def test_means_are_over_trained_tokens_and_empty_rows_add_nothing(tmp_path: Any) -> None:
    found = run([batch(8), batch(2), batch(0)], Stop(RunDir(tmp_path), None, torch.device("cpu")))
    assert found == ValidationResult(loss=2.0, token_accuracy=0.5, tokens=10)
    assert found.perplexity == pytest.approx(math.exp(2))


def test_a_stop_ends_an_evaluation_without_a_result(tmp_path: Any) -> None:
    assert run([batch(8), batch(8)], Stop(RunDir(tmp_path), 5, torch.device("cpu"))) is None


def test_the_perplexity_of_a_hopeless_model_is_a_number() -> None:
    assert math.isfinite(ValidationResult(loss=1e6, token_accuracy=0, tokens=1).perplexity)
