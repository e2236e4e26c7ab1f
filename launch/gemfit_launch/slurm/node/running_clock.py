"""A clock that stands still while the job is suspended.

`scontrol suspend`, gang scheduling and PreemptMode=SUSPEND stop the processes of a job with SIGSTOP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

LONGEST_GAP_SECONDS = 30.0
"""Between two readings of a process that runs; the processes of a suspended job are stopped for longer."""


@dataclass(slots=True)
class RunningClock:
    """Seconds that this process has been running since the clock was made.

    It has to be read every few seconds: in a longer gap between two readings neither this process nor the
    ranks have run.
    """

    source: Callable[[], float] = time.monotonic
    _seconds: float = 0.0
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.source()

    def read(self) -> float:
        """Seconds without those of suspensions."""
        now = self.source()
        gap, self._last = now - self._last, now
        self._seconds += gap if gap <= LONGEST_GAP_SECONDS else 0.0
        return self._seconds
