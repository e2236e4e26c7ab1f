"""Progress records during work between two steps: a slow evaluation or resume then does not look hung."""

from __future__ import annotations

import time
from pathlib import Path

from gemfit.core.jsonl_log import append_record
from gemfit.schemas.metrics import ProgressActivity, ProgressRecord
from gemfit.train.collective import rank

BEAT_SECONDS = 60.0
"""Time between two records: far below the shortest silence that counts as a hang."""


class Heartbeat:
    """Writes a record on rank 0 once per ``BEAT_SECONDS``, as long as it is called."""

    def __init__(self, metrics: Path, attempt: int, step: int, activity: ProgressActivity) -> None:
        self._metrics, self._attempt, self._step, self._activity = metrics, attempt, step, activity
        self._began = self._last = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if rank() > 0 or now - self._last < BEAT_SECONDS:
            return
        self._last = now
        record = ProgressRecord(
            attempt=self._attempt,
            step=self._step,
            activity=self._activity,
            seconds=now - self._began,
            time=time.time(),
        )
        append_record(self._metrics, record)
