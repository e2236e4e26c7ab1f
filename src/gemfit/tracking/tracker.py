"""Interface of a tracker, and what it is opened with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gemfit.core.foreign_files import refuse_foreign_files
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.tracking.points import TrackerPoint
from gemfit.tracking.tracker_state import TrackerState

PROJECT = "gemfit"
"""Project or experiment, where the tracker's own variable names none."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as its trackers see it."""

    run: RunDir
    plan: Plan
    state: TrackerState

    @property
    def name(self) -> str:
        return self.run.root.resolve().name

    def folder(self, tracker: str) -> Path:
        """Folder of a tracker that writes to this disk; created. A link in it that leads out is refused."""
        folder = self.run.trackers / tracker
        folder.mkdir(parents=True, exist_ok=True)
        # W&B replaces its folder, and keeps links to its own log elsewhere in it.
        refuse_foreign_files(folder, levels=1 if tracker == "wandb" else None)
        return folder

    @property
    def config(self) -> dict[str, Any]:
        """The recipe, as nested values."""
        config: dict[str, Any] = self.plan.recipe.model_dump(mode="json")
        return config


class Tracker(Protocol):
    """A run in an experiment tracker, open for writing."""

    state: TrackerState
    """With ids that the tracker has chosen itself."""
    rewrites: bool
    """Whether ``log`` takes all points each time and replaces what is there."""

    @property
    def newest_step(self) -> int:
        """The newest step that the tracker has; -1 for none."""

    def log(self, points: Sequence[TrackerPoint]) -> None:
        """Add ``points``, in the order of their steps."""

    def close(self, *, completed: bool) -> None:
        """End this connection; the run can be continued."""
