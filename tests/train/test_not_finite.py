"""A loss that is no number ends the attempt before anything is saved."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.utils._pytree import tree_leaves

from gemfit.data.pack.shuffle import EMPTY
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.train.loop.callbacks import BoundaryCallback
from gemfit.train.loop.finite import check_grad_norm
from gemfit.train.loop.validation_loop import ValidationResult

if TYPE_CHECKING:
    from train.conftest import Launch

STATE = SimpleNamespace(global_step=3, max_steps=10, epoch=0.0)


def boundary(run: Path, **parts: Any) -> BoundaryCallback:
    """The callback of a trainer that has just these parts."""
    metrics, ledger = run / "metrics.jsonl", run / "ledger.jsonl"
    trainer: Any = SimpleNamespace(
        run=SimpleNamespace(metrics_file=metrics, ledger_file=ledger),
        plan=SimpleNamespace(recipe=None, batch=SimpleNamespace(world_size=2)),
        layer_timer=SimpleNamespace(take=lambda: 0.1),
        data_seconds=0.0,
        **parts,
    )
    return BoundaryCallback(trainer)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_not_recorded(tmp_path: Path, loss: float) -> None:
    found = ValidationResult(loss=loss, token_accuracy=0.0, tokens=8)
    callback = boundary(tmp_path, validation_results={3: found}, attempt=1, evaluation_seconds=0.1)
    with pytest.raises(FloatingPointError, match=f"validation loss at step 3 is {loss}.*unchanged"):
        callback.on_evaluate(None, STATE, SimpleNamespace())
    assert not any(tmp_path.iterdir())


def test_a_training_loss_that_is_no_number_asks_for_no_checkpoint(tmp_path: Path) -> None:
    control = SimpleNamespace(should_save=False)
    callback = boundary(
        tmp_path,
        stop=SimpleNamespace(agree=lambda *_: (float("nan"), 0.0, *[0.1] * 4, 1.0)),
        saver=SimpleNamespace(failed=False, bound_lost_steps=lambda step: None),
        ledger=SimpleNamespace(take=lambda: (1.0,), rows=lambda taken, rows: np.array([0])),
        schedule=SimpleNamespace(rows_of=lambda step: np.array([0]), epoch=lambda step: 0.1),
        take_step_loss=lambda: float("nan"),
    )
    with pytest.raises(FloatingPointError, match="loss of step 3 is nan"):
        callback.on_step_end(None, STATE, control)
    assert not control.should_save
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), -1.0])
def test_a_gradient_norm_that_is_not_finite_names_step_and_rows(norm: float) -> None:
    rows = [*range(100, 112), EMPTY]
    with pytest.raises(FloatingPointError, match=r"norm of step 5 is (nan|inf) \(rows 100, .* and 4 more"):
        check_grad_norm(norm, 5, rows)


@pytest.mark.parametrize("norm", [0.0, 1.0, 3.4e38])
def test_a_finite_gradient_norm_passes(norm: float) -> None:
    check_grad_norm(norm, 5, [1])


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "ranks", "dtype"),
    [
        ("single", 1, "float32"),
        ("single", 1, "bfloat16"),
        ("ddp", 2, "float32"),
        ("fsdp2", 2, "float32"),
        ("zero2", 2, "float32"),
        ("zero3", 2, "float32"),
    ],
)
def test_a_run_that_diverges_keeps_finite_checkpoints_only(
    strategy: str, ranks: int, dtype: str, fresh_run: Launch, tmp_path: Path
) -> None:
    settings = {"optim__learning_rate": 1e35, "optim__warmup_steps": 0, "checkpoint__every_steps": 1}
    attempts = fresh_run(strategy, ranks, **settings, model__dtype=dtype)
    assert attempts.train().returncode != 0
    verdict = attempts.verdict
    assert verdict is not None
    assert verdict.outcome is AttemptOutcome.FATAL
    assert re.match(r"the (gradient norm|loss) of step \d+ is (nan|inf) \(rows \d+, ", verdict.reason)
    for folder in attempts.run.committed():
        dcp_to_torch_save(folder, tmp_path / "whole.pt")
        saved = tree_leaves(torch.load(tmp_path / "whole.pt", weights_only=False))
        tensors = [leaf for leaf in saved if isinstance(leaf, torch.Tensor)]
        assert len(tensors) > 100
        assert all(tensor.isfinite().all() for tensor in tensors), folder
