"""Weights & Biases: a run that attempts continue, or, offline, one folder with the whole run.

Online the server says which steps it has. Offline nothing can be appended: each attempt would leave a folder
of its own, numbered from 0. So the one folder is written anew from the records.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemfit.errors import UserError
from gemfit.tracking.destinations import OFFLINE_MODES
from gemfit.tracking.points import TrackerPoint
from gemfit.tracking.tracker import PROJECT, TrackedRun


def open_wandb(tracked: TrackedRun) -> WandbOnline | WandbOffline:
    """The run in the mode that `WANDB_MODE` and the settings of W&B say."""
    _refuse_settings_of(tracked)
    import wandb  # noqa: PLC0415  (seconds of imports)

    offline = wandb.setup().settings.mode in OFFLINE_MODES
    return WandbOffline(tracked) if offline else WandbOnline(tracked)


def _refuse_settings_of(tracked: TrackedRun) -> None:
    """W&B takes settings, such as the server that gets the API key, from a file of the working folder."""
    settings, root = Path.cwd() / "wandb" / "settings", tracked.run.root.resolve()
    if settings.is_file() and settings.is_relative_to(root):
        raise UserError(f"{settings}: W&B would take its server from this file; work in another folder")


class WandbOnline:
    """A run on a server."""

    rewrites = False

    def __init__(self, tracked: TrackedRun) -> None:
        self.state = tracked.state
        self._run = _begin(tracked, tracked.folder("wandb").parent)

    @property
    def newest_step(self) -> int:
        step: int = self._run.step
        return step - 1

    def log(self, points: Sequence[TrackerPoint]) -> None:
        _log(self._run, points)

    def close(self, *, completed: bool) -> None:
        # A status other than 0 marks a run as failed; one that was stopped goes on.
        self._run.finish(exit_code=0)


class WandbOffline:
    """A folder ``wandb/offline-run-*`` for `wandb sync`, below the run folder."""

    rewrites = True
    newest_step = -1

    def __init__(self, tracked: TrackedRun) -> None:
        self.state, self._tracked = tracked.state, tracked

    def log(self, points: Sequence[TrackerPoint]) -> None:
        """Replace the folder by one with all ``points``."""
        target = self._tracked.folder("wandb")
        building = target.with_name(".wandb-building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        run = _begin(self._tracked, building)
        try:
            _log(run, points)
        finally:  # W&B would go on with this run at the next call, in a folder that is gone
            run.finish(exit_code=0)
        shutil.rmtree(target)
        (building / "wandb").rename(target)
        shutil.rmtree(building)

    def close(self, *, completed: bool) -> None:
        """Nothing is open between two calls of ``log``."""


def _begin(tracked: TrackedRun, folder: Path) -> Any:
    import wandb  # noqa: PLC0415  (seconds of imports)

    state = tracked.state
    return wandb.init(
        id=state.run_id("wandb"),
        name=os.environ.get("WANDB_NAME") or state.run_name("wandb", tracked.name),
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        resume="allow",
        dir=folder,
        config=tracked.config,
        allow_val_change=True,
        settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
    )


def _log(run: Any, points: Sequence[TrackerPoint]) -> None:
    for point in points:
        values = {**point.values, "train/global_step": point.step, "_timestamp": point.time}
        run.log(values, step=point.step, commit=True)
