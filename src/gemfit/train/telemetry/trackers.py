"""One run per run folder in the trackers that are callbacks of transformers: TensorBoard, SwanLab, Comet.

The id is kept in the run folder and passed on by the variables that the trackers read. A variable that the
user has set stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from gemfit.rundir import RunDir
from gemfit.tracking.tracker_state import TrackerState, load_state
from gemfit.train.collective import rank

SWANLAB_ID_LENGTH = 21


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
        for name, value in tracker_variables(load_state(trainer.run)).items():
            os.environ.setdefault(name, value)
        trainer.args.run_name = trainer.run.root.resolve().name
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback._SummaryWriter = self._without_repeated_steps(callback._SummaryWriter)

    def _without_repeated_steps(self, writer: Callable[..., Any]) -> Callable[..., Any]:
        """``writer`` that hides the steps after the checkpoint, which this attempt does again."""

        def make(log_dir: str) -> Any:
            return writer(log_dir=log_dir, purge_step=self.trainer.state.global_step + 1)

        return make


def tracker_variables(state: TrackerState) -> dict[str, str]:
    """Environment variables by which trackers continue a run, or begin one with this id."""
    return {
        "SWANLAB_RUN_ID": state.id[:SWANLAB_ID_LENGTH],
        "SWANLAB_RESUME": "allow",
        "COMET_EXPERIMENT_KEY": state.id,
    }
