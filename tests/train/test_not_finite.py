"""A loss that is no number ends the attempt before anything is saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gemfit.train.loop.callbacks import BoundaryCallback
from gemfit.train.loop.validation_loop import ValidationResult

STATE = SimpleNamespace(global_step=3, max_steps=10, epoch=0.0)


def boundary(run: Path, **parts: Any) -> BoundaryCallback:
    """The callback of a trainer that has just these parts."""
    metrics, ledger = run / "metrics.jsonl", run / "ledger.jsonl"
    trainer: Any = SimpleNamespace(
        run=SimpleNamespace(metrics_file=metrics, ledger_file=ledger),
        plan=SimpleNamespace(recipe=None, batch=SimpleNamespace(world_size=2)),
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
        stop=SimpleNamespace(agree=lambda *_: (float("nan"), 0.0, 1.0)),
        saver=SimpleNamespace(failed=False, bound_lost_steps=lambda step: None),
        ledger=SimpleNamespace(take=lambda: (1.0,), rows=lambda taken, rows: np.array([0])),
        schedule=SimpleNamespace(rows_of=lambda step: np.array([0]), epoch=lambda step: 0.1),
        take_step_loss=lambda: float("nan"),
    )
    with pytest.raises(FloatingPointError, match="loss of step 3 is nan"):
        callback.on_step_end(None, STATE, control)
    assert not control.should_save
    assert not any(tmp_path.iterdir())
