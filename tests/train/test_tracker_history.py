"""A run that is preempted is one run in a tracker, and each step is there once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gemfit.errors import ExitCode
from gemfit.schemas.metrics_history import read_history
from gemfit.tracking.tracker_state import load_state
from tracking.stored import Curve, mlflow_curves, wandb_curves

STOPS, STEPS = (2, 4, 5), 6


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_preempted_three_times_is_one_run_with_each_step_once(
    fresh_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("MLFLOW_TRACKING_URI", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    attempts = fresh_run("ddp", 2, tracking__report_to="[wandb, mlflow, tensorboard]")
    for stop in STOPS:
        assert attempts.train(stop_at=stop).returncode == ExitCode.STOPPED, attempts.log()
    assert attempts.train().returncode == 0, attempts.log()
    run = attempts.run
    assert run.attempt == len(STOPS) + 1
    trained = [(record.step, record.loss) for record in read_history(run.metrics_file).steps]
    assert [step for step, _ in trained] == list(range(1, STEPS + 1))
    assert _only_run(wandb_curves(run.trackers / "wandb"), load_state(run).id) == trained
    assert _only_run(mlflow_curves(run.trackers / "mlflow"), load_state(run).mlflow["run folder"]) == trained


def _only_run(found: dict[str, dict[str, Curve]], expected: str) -> Curve:
    ((identity, curves),) = found.items()
    assert identity == expected
    return curves["train/loss"]
