"""Records of steps: what a step's seconds contain."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gemfit.train.loop import callbacks
from gemfit.train.loop.callbacks import BoundaryCallback

STATE = SimpleNamespace(global_step=3, max_steps=10, epoch=0.0)


class TickingClock:
    """Stands for the module ``time``: it goes on where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    time = perf_counter

    def advance(self, seconds: float) -> None:
        self.now += seconds


def test_the_wait_for_a_save_that_bounds_lost_steps_is_no_part_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = TickingClock()
    monkeypatch.setattr(callbacks, "time", clock)
    trainer: Any = SimpleNamespace(
        run=SimpleNamespace(metrics_file=tmp_path / "metrics.jsonl", ledger_file=tmp_path / "ledger.jsonl"),
        plan=SimpleNamespace(
            recipe=SimpleNamespace(
                tracking=SimpleNamespace(log_every_steps=1),
                evaluation=SimpleNamespace(every_steps=5),
                checkpoint=SimpleNamespace(every_steps=5),
            ),
            batch=SimpleNamespace(world_size=1),
            steps=SimpleNamespace(total=10),
        ),
        attempt=1,
        layer_timer=SimpleNamespace(take=lambda: 0.1),
        data_seconds=0.5,
        grad_norm=1.0,
        stop=SimpleNamespace(agreed=False, agree=lambda *_: (2.0, 0.0, 0.1, 0.1, 0.0, 1.0)),
        saver=SimpleNamespace(failed=False, bound_lost_steps=lambda step: clock.advance(30.0)),
        ledger=SimpleNamespace(take=lambda: (1.0,), rows=lambda taken, rows: np.array([0])),
        schedule=SimpleNamespace(
            rows_of=lambda step: np.array([0]),
            epoch=lambda step: 0.1,
            tokens=lambda step: 100,
            trained_tokens=lambda step: 50,
        ),
        take_step_loss=lambda: 2.0,
    )
    callback = BoundaryCallback(trainer)
    callback.started, callback.has_validation = clock.now, True
    clock.advance(2.0)
    callback.on_step_end(None, STATE, SimpleNamespace())
    record = json.loads(trainer.run.metrics_file.read_text())
    assert (record["seconds"], record["tokens_per_second"]) == (2.5, 40.0)
