"""Pass the signals that end a packing job on to the builder, until it has ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

from gemfit.core.stop_signals import STOP_SIGNALS
from gemfit.errors import ExitCode
from gemfit_launch.runs.local import descendants, kill_tree

REPEAT_SECONDS = 5.0
POLITE_REQUESTS = 3
"""Signals before the builder and its workers are killed; the blocks that are done stay in the cache."""


class BuilderEnd:
    """Handler of the signals; counts how often the builder was asked to end."""

    def __init__(self) -> None:
        self.requests = 0

    @classmethod
    def install(cls) -> BuilderEnd:
        """Handle the signals of this process, and repeat the request by SIGALRM."""
        handler = cls()
        for number in (*STOP_SIGNALS, signal.SIGALRM):
            signal.signal(number, handler)
        return handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.requests += 1
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        children = descendants(os.getpid())
        if not children:
            raise SystemExit(ExitCode.STOPPED)  # the builder has not begun, or has ended
        if self.requests > POLITE_REQUESTS:
            kill_tree(children[0])
        with suppress(ProcessLookupError):
            os.kill(children[0], signal.SIGTERM)  # the builder, which ends its workers
