"""Read back what trackers have stored on disk."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

FILE_HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

Curve = list[tuple[int, float]]
"""Step and value, in the order in which they are stored."""


def wandb_curves(folder: Path) -> dict[str, dict[str, Curve]]:
    """By run id: the curves of all ``offline-run-*`` in ``folder``."""
    runs: dict[str, dict[str, Curve]] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        curves: dict[str, Curve] = {}
        for record in _wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                curves = runs.setdefault(record.run.run_id, {})
            if record.WhichOneof("record_type") == "history":
                items = {
                    i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item
                }
                for name, value in items.items():
                    curves.setdefault(name, []).append((int(items["_step"]), value))
    return runs


def _wandb_records(path: Path) -> Iterator[Any]:
    """Protobuf records of a file in the log format of LevelDB."""
    data, place, whole = path.read_bytes(), FILE_HEADER, b""
    assert data[:4] == b":W&B"
    while place + RECORD_HEADER <= len(data):
        if BLOCK - place % BLOCK < RECORD_HEADER:  # the rest of a block holds no header
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        place += RECORD_HEADER
        whole = (
            data[place : place + length] if kind in (FULL, FIRST) else whole + data[place : place + length]
        )
        place += length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


def mlflow_curves(folder: Path) -> dict[str, dict[str, Curve]]:
    """By run id: the curves of all runs in the file store ``folder``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        return _mlflow_curves(folder)


def _mlflow_curves(folder: Path) -> dict[str, dict[str, Curve]]:
    from mlflow import MlflowClient  # noqa: PLC0415  (seconds of imports)

    client = MlflowClient(tracking_uri=f"file:{folder.resolve()}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return {
        run.info.run_id: {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in client.search_runs(experiments)
    }


def trackio_curves(folder: Path) -> dict[str, dict[str, Curve]]:
    """By run name: the curves of all runs in the databases of ``folder``."""
    runs: dict[str, dict[str, Curve]] = {}
    for path in folder.glob("*.db"):
        with sqlite3.connect(path) as database:
            rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        for name, step, metrics in rows:
            for metric, value in json.loads(metrics).items():
                runs.setdefault(name, {}).setdefault(metric, []).append((step, value))
    return runs
