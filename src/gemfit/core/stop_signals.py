"""Signals that ask a training to save and stop."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

PREEMPTION_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Sent by Slurm to the processes of a job: before the time limit and on preemption."""
STOP_SIGNALS = (*PREEMPTION_SIGNALS, signal.SIGINT, signal.SIGHUP)
"""Those, and what a terminal sends: Ctrl-C and its end."""
REPEAT_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
LAUNCHER_VARIABLE = "GEMFIT_LAUNCHER_PID"
"""Id of the process that has started the launch command of an attempt."""


def end_with_launcher() -> None:
    """Let this rank be killed when the launch command ends, which is killed when its own parent ends.

    A rank that is left alone would hold its GPU until a collective or the rendezvous times out.
    """
    launcher, parent = os.environ.get(LAUNCHER_VARIABLE, ""), os.getppid()
    end_with_parent(signal.SIGKILL)
    # The launch command may have ended before: this rank is then a child of init, or, in a container, of the
    # process that has started the launch command.
    if os.getppid() != parent or (launcher and int(launcher) not in _ancestors(parent)):
        os.kill(os.getpid(), signal.SIGKILL)


def _ancestors(pid: int) -> Iterator[int]:
    """Parent of the process ``pid``, its parent, and so on; ends where one has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        while pid > 0:
            # The name in parentheses may hold anything, so count from the last parenthesis.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            yield pid


def end_with_parent(number: signal.Signals) -> None:
    """Let this process get the signal ``number`` when the thread that has started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise ``KeyboardInterrupt``, repeatedly until it leaves the block.

    An exception that is raised in a callback from C, such as those of llvmlite while numba compiles, is
    printed and lost.
    """
    with handling((signal.SIGINT, signal.SIGTERM, signal.SIGALRM), _interrupt):
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def handling(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Inside, ``handler`` gets the signals ``numbers``; the handlers before come back at the end."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
    if not _is_unwinding():
        raise KeyboardInterrupt


def _is_unwinding() -> bool:
    """Whether the process is cleaning up after an interrupt: another one would end that halfway."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
