"""Start time of this process, as Linux recorded it: the interpreter's own start is included."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT, UPTIME = Path("/proc/self/stat"), Path("/proc/uptime")
START_FIELD = 22
"""Of proc(5): ``starttime``, in clock ticks after boot."""


def process_start_time() -> float:
    """When this process began, in seconds since the Unix epoch; resolution 10 ms."""
    # The name in parentheses may hold anything, so count from the last parenthesis: field 3 follows.
    fields = STAT.read_text().rpartition(")")[2].split()
    ticks = int(fields[START_FIELD - 3])
    running = float(UPTIME.read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - running
