"""Hang detection: no step for much longer than steps usually take."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from gemfit.schemas.metrics import StepRecord
from gemfit_launch.runs.metrics_tail import Tail
from gemfit_launch.slurm.node.running_clock import RunningClock

USUAL_STEP_FACTOR = 20
START_FACTOR = 2
"""Loading and compiling a model, before the first step, takes longer than most of what comes later."""


@dataclass(slots=True)
class Watchdog:
    """Watches the metrics of an attempt."""

    tail: Tail
    hang_seconds: float
    """Shortest time without a step that counts as a hang, after the first step: a save may be large."""
    clock: float = 0.0
    """When the last record was read, by ``running``."""
    running: RunningClock = field(default_factory=RunningClock)
    times: list[float] = field(default_factory=list)

    def silence_beyond_limit(self, now: float | None = None) -> float | None:
        """Seconds since the last step, without suspensions, if beyond the limit; else ``None``."""
        now = self.running.read() if now is None else now
        if records := self.tail.read():
            self.clock = now
            self.times += [record.time for record in records if isinstance(record, StepRecord)]
            del self.times[:-100]
        silence = now - self.clock
        return silence if silence > self.limit_seconds else None

    @property
    def limit_seconds(self) -> float:
        """Seconds without a step from which on the attempt counts as hung."""
        if not self.times:
            return START_FACTOR * self.hang_seconds
        gaps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        usual = statistics.median(gaps) if gaps else 0.0
        return max(self.hang_seconds, USUAL_STEP_FACTOR * usual)
