"""Send the final steps of a run to its trackers, each step once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.metrics_history import make_history, read_records
from gemfit.tracking.destinations import destination
from gemfit.tracking.mlflow_run import MlflowRun
from gemfit.tracking.points import TrackerPoint, final_points, sent_steps, still_hold
from gemfit.tracking.tracker import TrackedRun, Tracker
from gemfit.tracking.tracker_state import TrackerState, load_state, save_state
from gemfit.tracking.trackio_run import TrackioRun
from gemfit.tracking.wandb_run import open_wandb

logger = logging.getLogger(__name__)

OPENERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "wandb": open_wandb,
    "mlflow": MlflowRun,
    "trackio": TrackioRun,
}


@dataclass(frozen=True, slots=True)
class TrackerResult:
    """What a synchronization did in one tracker."""

    tracker: str
    steps: int
    """Steps that were sent."""
    last_step: int
    """The newest step that the tracker has; -1 for none."""
    error: str | None = None
    """Why nothing, or not everything, was sent."""


class TrackerSync:
    """The open trackers of a run, until ``close``."""

    def __init__(self, run: RunDir, names: Iterable[str]) -> None:
        self._run, self._names = run, tuple(names)
        self._open: dict[str, Tracker] = {}

    def send(self, *, active: bool, rewrite: bool) -> list[TrackerResult]:
        """Send the final steps to each tracker that lacks them.

        ``active``: the newest step may still get its evaluation. ``rewrite``: also to trackers that take the
        whole run each time. An error of a tracker is its result, and is tried again at the next call.
        """
        points = self._points(active)
        return [
            self._send(name, points)
            for name in self._names
            if rewrite or name not in self._open or not self._open[name].rewrites
        ]

    def close(self) -> None:
        completed = self._completed
        for name, tracker in self._open.items():
            try:
                tracker.close(completed=completed)
            except Exception as error:  # a server that is away: what is sent is sent
                logger.warning("%s: %s", name, error)
        self._open.clear()

    @property
    def _completed(self) -> bool:
        return self._run.is_complete(self._run.plan())

    def _points(self, active: bool) -> list[TrackerPoint]:
        records = read_records(self._run.metrics_file) if self._run.metrics_file.is_file() else []
        if not any(isinstance(record, StepRecord) for record in records):
            return []
        history = make_history(records, self._run.metrics_file)
        return final_points(history, completed=self._completed, active=active)

    def _send(self, name: str, points: list[TrackerPoint]) -> TrackerResult:
        try:
            return self._send_missing(name, points)
        except Exception as error:  # any library, any server: training goes on
            self._open.pop(name, None)  # opened again, it is asked which steps it has
            return TrackerResult(name, 0, -1, f"{type(error).__name__}: {error}")

    def _send_missing(self, name: str, points: list[TrackerPoint]) -> TrackerResult:
        key = f"{name}: {destination(name)}"
        state = load_state(self._run)
        if not still_hold(state.sent.get(key, ()), points):
            state = self._begin_again(name, key, state)
        if not points:
            return TrackerResult(name, 0, -1)
        if (tracker := self._open.get(name)) is None:
            tracker = OPENERS[name](TrackedRun(self._run, self._run.plan(), state))
            self._open[name] = tracker
            state = tracker.state
            save_state(self._run, state)
        newest = tracker.newest_step
        missing = [point for point in points if point.step > newest]
        if missing:
            tracker.log(missing)
        if not tracker.rewrites:
            sent = {**state.sent, key: sent_steps(points)}
            save_state(self._run, state.model_copy(update={"sent": sent}))
        return TrackerResult(name, len(missing), points[-1].step)

    def _begin_again(self, name: str, key: str, state: TrackerState) -> TrackerState:
        """Another run in ``name``: steps that it has were trained again, and it cannot replace them."""
        if (tracker := self._open.pop(name, None)) is not None:
            tracker.close(completed=False)
        update = {
            "restarts": {**state.restarts, name: state.restarts.get(name, 0) + 1},
            "mlflow": {} if name == "mlflow" else state.mlflow,
            "sent": {k: v for k, v in state.sent.items() if not k.startswith(f"{name}: ")},
        }
        logger.warning("%s: steps that it has were trained again, so a new run begins there", name)
        changed = state.model_copy(update=update)
        save_state(self._run, changed)
        return changed
