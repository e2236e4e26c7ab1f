"""Notice that a run stands still: no step for much longer than steps take."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

from gemfit.schemas.metrics import StepRecord
from gemfit_launch.runs.metrics_tail import Tail

TIMES_THE_USUAL_STEP = 20
TIMES_FOR_THE_START = 4
"""Loading and compiling a model, before the first step, takes longer than anything later."""


@dataclass(slots=True)
class Watchdog:
    """Reads the metrics of an attempt as they come."""

    tail: Tail
    hang_seconds: float
    """The shortest silence that counts, after the first step: it may be a large save."""
    clock: float = field(default_factory=time.monotonic)
    times: list[float] = field(default_factory=list)

    def silence_beyond_limit(self, now: float | None = None) -> float | None:
        """Seconds since the last step where that is too long, else ``None``."""
        now = time.monotonic() if now is None else now
        if records := self.tail.read():
            self.clock = now
            self.times += [record.time for record in records if isinstance(record, StepRecord)]
            del self.times[:-100]
        silence = now - self.clock
        return silence if silence > self.limit_seconds else None

    @property
    def limit_seconds(self) -> float:
        """How long a silence is still taken for work."""
        if not self.times:
            return TIMES_FOR_THE_START * self.hang_seconds
        gaps = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        usual = statistics.median(gaps) if gaps else 0.0
        return max(self.hang_seconds, TIMES_THE_USUAL_STEP * usual)
