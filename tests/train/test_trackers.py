"""Runs of the trackers that are callbacks of transformers, over several attempts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback

from gemfit.rundir import RunDir
from gemfit.tracking.tracker_state import load_state
from gemfit.train.telemetry.trackers import TrackerCallback

VARIABLES = ("SWANLAB_RUN_ID", "SWANLAB_RESUME", "COMET_EXPERIMENT_KEY", "WANDB_RUN_ID")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def begin(run: RunDir, step: int = 0, callbacks: tuple[Any, ...] = ()) -> Any:
    """The trainer's arguments under the callback of a new attempt."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    trainer: Any = SimpleNamespace(
        run=run,
        args=SimpleNamespace(run_name=None),
        state=SimpleNamespace(global_step=step),
        callback_handler=SimpleNamespace(callbacks=list(callbacks)),
    )
    TrackerCallback(trainer)
    return trainer.args


def test_each_attempt_continues_the_run_of_the_first(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        assert begin(RunDir(tmp_path)).run_name == tmp_path.name
        seen.append({name: os.environ.get(name) for name in VARIABLES})
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["SWANLAB_RESUME"] == "allow"
    assert seen[0]["COMET_EXPERIMENT_KEY"] == load_state(RunDir(tmp_path)).id


def test_two_runs_have_different_ids(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_state(RunDir(tmp_path / "a")).id != load_state(RunDir(tmp_path / "b")).id


def test_an_id_that_the_user_has_set_is_kept_for_later_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    load_state(RunDir(tmp_path))
    monkeypatch.delenv("WANDB_RUN_ID")
    assert load_state(RunDir(tmp_path)).run_id("wandb") == "mine"


def test_tensorboard_shows_repeated_steps_once(tmp_path: Path) -> None:
    for start, end in ((0, 4), (2, 6)):
        callback = TensorBoardCallback()
        begin(RunDir(tmp_path), start, (callback,))
        writer: SummaryWriter = callback._SummaryWriter(log_dir=str(tmp_path / "tensorboard"))
        for step in range(start + 1, end + 1):
            writer.add_scalar("loss", float(step + 100 * start), step)
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [
        (1, 1.0),
        (2, 2.0),
        (3, 203.0),
        (4, 204.0),
        (5, 205.0),
        (6, 206.0),
    ]
