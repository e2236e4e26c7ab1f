"""Time limit of a block of code that others have written, such as a chat template."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """``TimeoutError`` in the block after ``seconds`` of wall time.

    By SIGALRM, whose handler and timer are as before afterwards: in another thread than the main one, and
    where the timer is set to less time already, there is no limit.
    """
    earlier, began = signal.getitimer(signal.ITIMER_REAL), time.monotonic()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or 0 < earlier[0] < seconds or signal.getsignal(signal.SIGALRM) is None:
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"took more than {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if earlier[0] > 0:
            left = earlier[0] - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), earlier[1])
