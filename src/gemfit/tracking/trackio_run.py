"""Trackio: a run in its database below the run folder, or in the Space that `TRACKIO_SPACE_ID` names."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gemfit.tracking.destinations import HERE, destination
from gemfit.tracking.points import TrackerPoint
from gemfit.tracking.tracker import PROJECT, TrackedRun

ID_CHARACTERS = 6


class TrackioRun:
    """A run of a Trackio project."""

    rewrites = False

    def __init__(self, tracked: TrackedRun) -> None:
        if destination("trackio") == HERE:
            os.environ["TRACKIO_DIR"] = str(tracked.folder("trackio").resolve())
        import trackio  # noqa: PLC0415  (it reads TRACKIO_DIR while it is imported)

        self.state = tracked.state
        # Trackio continues the run of this name, so that of another folder must differ.
        name = f"{tracked.name}-{tracked.state.id[:ID_CHARACTERS]}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT") or PROJECT,
            name=tracked.state.run_name("trackio", name),
            config=tracked.config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    @property
    def newest_step(self) -> int:
        step: int = self._run._next_step
        return step - 1

    def log(self, points: Sequence[TrackerPoint]) -> None:
        for point in points:
            self._run.log({**point.values, "train/global_step": point.step}, step=point.step)

    def close(self, *, completed: bool) -> None:
        self._run.finish()
