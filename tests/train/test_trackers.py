"""Runs of experiment trackers over several attempts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback

from gemfit.rundir import RunDir
from gemfit.train.telemetry.trackers import TrackerCallback, load_ids

NAMES = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "SWANLAB_RUN_ID", "SWANLAB_RESUME")
VARIABLES = (*NAMES, "COMET_EXPERIMENT_KEY", "MLFLOW_RUN_ID")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def begin(run: RunDir, *trackers: str, step: int = 0, callbacks: tuple[Any, ...] = ()) -> Any:
    """The callback of a new attempt, and the trainer's arguments."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    trainer: Any = SimpleNamespace(
        run=run,
        args=SimpleNamespace(report_to=list(trackers), run_name=None),
        state=SimpleNamespace(global_step=step, is_world_process_zero=True, is_hyper_param_search=False),
        callback_handler=SimpleNamespace(callbacks=list(callbacks)),
    )
    TrackerCallback(trainer).on_train_begin(trainer.args, trainer.state, None)
    return trainer.args


def test_each_attempt_continues_the_run_of_the_first(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        assert begin(RunDir(tmp_path), "wandb").run_name == tmp_path.name
        seen.append({name: os.environ.get(name) for name in VARIABLES})
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["WANDB_RESUME"] == seen[0]["SWANLAB_RESUME"] == "allow"
    assert seen[0]["WANDB_RUN_ID"] == seen[0]["COMET_EXPERIMENT_KEY"] == load_ids(RunDir(tmp_path)).id
    assert seen[0]["MLFLOW_RUN_ID"] is None


def test_two_runs_have_different_ids(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_ids(RunDir(tmp_path / "a")).id != load_ids(RunDir(tmp_path / "b")).id


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    trainer: Any = SimpleNamespace(
        run=run, args=SimpleNamespace(report_to=["wandb"]), callback_handler=SimpleNamespace(callbacks=[])
    )
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setenv("WANDB_RESUME", "must")
    monkeypatch.setenv("WANDB_NAME", "my name")
    TrackerCallback(trainer)
    assert (os.environ["WANDB_RUN_ID"], os.environ["WANDB_RESUME"]) == ("mine", "must")
    assert trainer.args.run_name == "my name"


def test_mlflow_continues_the_run_that_it_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    active = SimpleNamespace(info=SimpleNamespace(run_id="0123abcd"))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(active_run=lambda: active))
    begin(RunDir(tmp_path), "mlflow")
    assert "MLFLOW_RUN_ID" not in os.environ
    begin(RunDir(tmp_path), "mlflow")
    assert os.environ["MLFLOW_RUN_ID"] == "0123abcd"


def test_trackio_gets_a_name_that_no_other_folder_has(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert begin(run, "trackio").run_name == begin(run, "trackio").run_name
    assert begin(run, "trackio").run_name == f"{tmp_path.name}-{load_ids(run).id[:6]}"


def test_tensorboard_shows_repeated_steps_once(tmp_path: Path) -> None:
    for start, end in ((0, 4), (2, 6)):
        callback = TensorBoardCallback()
        begin(RunDir(tmp_path), "tensorboard", step=start, callbacks=(callback,))
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
