"""One run per run folder in each experiment tracker: a later attempt continues that of the first.

The id is kept in the run folder and passed on by the variables that the trackers read. A variable that the
user has set stays as it is.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from gemfit.core.atomic_file import write_atomic
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract
from gemfit.train.collective import rank

SWANLAB_ID_LENGTH = 21


class TrackerIds(Contract):
    """Ids of a run in experiment trackers."""

    id: str
    """For Weights & Biases, SwanLab and Comet, which take any id; 32 hexadecimal digits."""
    mlflow: str | None = None
    """MLflow chooses its own."""


class TrackedTrainer(Protocol):
    """What this callback reads and sets of the trainer."""

    run: RunDir
    args: Any
    state: Any
    callback_handler: Any


class TrackerCallback(TrainerCallback):
    """Names the runs of trackers before they begin, on the first rank, which alone reports."""

    def __init__(self, trainer: TrackedTrainer) -> None:
        self.trainer = trainer
        if rank() > 0:
            return
        self.ids = load_ids(trainer.run)
        for name, value in tracker_variables(self.ids).items():
            os.environ.setdefault(name, value)
        name = trainer.run.root.resolve().name
        # Trackio continues the run of this name.
        unique = f"{name}-{self.ids.id[:6]}" if "trackio" in trainer.args.report_to else name
        trainer.args.run_name = os.environ.get("WANDB_NAME") or unique
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback._SummaryWriter = self._without_repeated_steps(callback._SummaryWriter)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        mlflow = sys.modules.get("mlflow")
        if rank() > 0 or "mlflow" not in args.report_to or mlflow is None:
            return
        if (active := mlflow.active_run()) is not None:
            _write(self.trainer.run, self.ids.model_copy(update={"mlflow": active.info.run_id}))

    def _without_repeated_steps(self, writer: Callable[..., Any]) -> Callable[..., Any]:
        """``writer`` that hides the steps after the checkpoint, which this attempt does again."""

        def make(log_dir: str) -> Any:
            return writer(log_dir=log_dir, purge_step=self.trainer.state.global_step + 1)

        return make


def load_ids(run: RunDir) -> TrackerIds:
    """The ids of ``run``, made by its first attempt."""
    if not run.trackers_file.is_file():
        _write(run, TrackerIds(id=uuid.uuid4().hex))
    return TrackerIds.read(run.trackers_file)


def tracker_variables(ids: TrackerIds) -> dict[str, str]:
    """Environment variables by which trackers continue a run, or begin one with this id."""
    found = {
        "WANDB_RUN_ID": ids.id,
        "WANDB_RESUME": "allow",
        "SWANLAB_RUN_ID": ids.id[:SWANLAB_ID_LENGTH],
        "SWANLAB_RESUME": "allow",
        "COMET_EXPERIMENT_KEY": ids.id,
    }
    return found | ({"MLFLOW_RUN_ID": ids.mlflow} if ids.mlflow else {})


def _write(run: RunDir, ids: TrackerIds) -> None:
    write_atomic(run.trackers_file, ids.to_json())
