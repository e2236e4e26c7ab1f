"""Seconds from the command to the end of the first step of an attempt, part by part.

Rank 0 keeps them, from clocks alone: no synchronisation, so a part holds what rank 0 waited for the others.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from gemfit.core.jsonl_log import append_record
from gemfit.core.launcher_environment import COMMAND_TIME, LAUNCH_TIME
from gemfit.core.process_start import process_start_time
from gemfit.schemas.metrics import StartPart, StartRecord
from gemfit.summary.format import list_seconds
from gemfit.train.collective import rank
from gemfit.train.trainer_view import TrainerView

logger = logging.getLogger(__name__)


class StartParts:
    """Parts of a start so far; ``mark`` ends one of them."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.parts: dict[StartPart, float] = {}
        process = process_start_time()
        launched = float(environment.get(LAUNCH_TIME, process))
        self.begin = self._last = float(environment.get(COMMAND_TIME, launched))
        self.mark("launcher", launched)
        self.mark("processes", process)

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self._last - self.begin

    def mark(self, part: StartPart, now: float | None = None) -> None:
        """Count the seconds since the last mark to ``part``."""
        now = time.time() if now is None else now
        # Clocks of two processes are read at different resolutions.
        self.parts[part] = self.parts.get(part, 0.0) + max(0.0, now - self._last)
        self._last = max(now, self._last)


class StartCallback(TrainerCallback):
    """Writes a ``StartRecord`` and a line of the log after the first step; the last of all callbacks."""

    def __init__(self, trainer: TrainerView, start: StartParts) -> None:
        self.trainer, self.start, self.done = trainer, start, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start.mark("trainer")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.done:
            self.start.mark("data")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.done:
            return
        self.done, start = True, self.start
        start.mark("first step")
        if rank() != 0:
            return
        record = StartRecord(
            attempt=self.trainer.attempt,
            step=state.global_step,
            seconds=start.seconds,
            parts=dict(start.parts),
            time=time.time(),
        )
        append_record(self.trainer.run.metrics_file, record)
        logger.info("start: %.1f s: %s", record.seconds, list_seconds(start.parts.items()))
