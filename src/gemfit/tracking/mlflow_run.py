"""MLflow: a run on the tracking server that `MLFLOW_TRACKING_URI` names, else in files below the run folder.

MLflow keeps a second value of a metric and step besides the first, so what it has of each metric is asked
before any is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gemfit.tracking.destinations import destination
from gemfit.tracking.points import TrackerPoint
from gemfit.tracking.tracker import PROJECT, TrackedRun

METRICS_PER_REQUEST, PARAMETERS_PER_REQUEST = 1000, 100
LONGEST_PARAMETER = 500
"""In characters: what every version of MLflow takes."""


class MlflowRun:
    """A run of an MLflow experiment."""

    rewrites = False

    def __init__(self, tracked: TrackedRun) -> None:
        # Without it MLflow refuses its file store, the one that needs no database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient  # noqa: PLC0415  (seconds of imports)

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{tracked.folder('mlflow').resolve()}"
        self._client = MlflowClient(tracking_uri=uri)
        self.state, place = tracked.state, destination("mlflow")
        if place not in self.state.mlflow:
            known = {**self.state.mlflow, place: self._create(tracked)}
            self.state = self.state.model_copy(update={"mlflow": known})
        self._id = self.state.mlflow[place]
        self._client.update_run(self._id, status="RUNNING")
        self._newest: dict[str, int] = {}

    @property
    def newest_step(self) -> int:
        """That of the metric which has fewest: a connection may have ended between two of them."""
        metrics = self._client.get_run(self._id).data.metrics
        return min((self._newest_of(name) for name in metrics if name.startswith("train/")), default=-1)

    def log(self, points: Sequence[TrackerPoint]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        metrics = [
            Metric(name, value, round(point.time * 1000), point.step)
            for point in points
            for name, value in point.values.items()
            if point.step > self._newest_of(name)
        ]
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            self._client.log_batch(self._id, metrics=metrics[start : start + METRICS_PER_REQUEST])
        self._newest |= {metric.key: metric.step for metric in metrics}

    def close(self, *, completed: bool) -> None:
        if completed:
            self._client.set_terminated(self._id)

    def _newest_of(self, metric: str) -> int:
        if metric not in self._newest:
            history = self._client.get_metric_history(self._id, metric)
            self._newest[metric] = max((point.step for point in history), default=-1)
        return self._newest[metric]

    def _create(self, tracked: TrackedRun) -> str:
        """A new run with the recipe as its parameters; its id."""
        from mlflow.entities import Param  # noqa: PLC0415

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        made = self._client.create_run(experiment, run_name=tracked.state.run_name("mlflow", tracked.name))
        parameters = [Param(key, value[:LONGEST_PARAMETER]) for key, value in _flat(tracked.config)]
        for start in range(0, len(parameters), PARAMETERS_PER_REQUEST):
            self._client.log_batch(
                made.info.run_id, params=parameters[start : start + PARAMETERS_PER_REQUEST]
            )
        identity: str = made.info.run_id
        return identity


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
