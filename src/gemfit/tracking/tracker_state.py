"""Ids of a run in experiment trackers, and the steps that each has: `trackers.json` of the run folder."""

from __future__ import annotations

import os
import uuid
from typing import Annotated

from pydantic import Field

from gemfit.core.atomic_file import write_atomic
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract

TrackerId = Annotated[str, Field(pattern=r"^[^./\\#?%:\x00-\x1f][^/\\#?%:\x00-\x1f]{0,99}$")]
MlflowId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,255}$")]


class SentSteps(Contract):
    """Steps that a tracker has: up to ``last_step``, as ``attempt`` trained them."""

    attempt: int
    last_step: int


class TrackerState(Contract):
    """Ids of a run in trackers; one id for all attempts.

    Ids become names of folders, so they are those that the trackers themselves allow.
    """

    id: TrackerId
    """For trackers that take any id; 32 hexadecimal digits, or `WANDB_RUN_ID` of the first attempt."""
    restarts: dict[str, int] = Field(default_factory=dict)
    """By tracker: how often a new run was begun there, because steps that it had were trained again."""
    mlflow: dict[str, MlflowId] = Field(default_factory=dict)
    """By tracking URI: the id that MLflow has chosen there."""
    sent: dict[str, tuple[SentSteps, ...]] = Field(default_factory=dict)
    """By tracker and destination."""

    def run_id(self, tracker: str) -> str:
        """Id of the run in ``tracker``."""
        return self.id + self._suffix(tracker)

    def run_name(self, tracker: str, name: str) -> str:
        """Name of the run in ``tracker``, where the run folder is called ``name``."""
        return name + self._suffix(tracker)

    def _suffix(self, tracker: str) -> str:
        number = self.restarts.get(tracker, 0)
        return f"-{number + 1}" if number else ""


def load_state(run: RunDir) -> TrackerState:
    """The state of ``run``; its id is made at the first call."""
    if not run.trackers_file.is_file():
        save_state(run, TrackerState(id=os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex))
    return TrackerState.read(run.trackers_file)


def save_state(run: RunDir, state: TrackerState) -> None:
    """Replace the state of ``run``."""
    write_atomic(run.trackers_file, state.to_json())
