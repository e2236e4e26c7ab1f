"""End the ranks that are left over once another rank of their launcher has ended without a verdict.

torchrun sends them SIGTERM, which a rank that is still importing or waits for its peers does not act on, and
SIGKILL only 30 seconds later. Until then they hold their GPUs.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome

END_SECONDS = 10.0
"""For ranks to end by themselves: they write their errors meanwhile."""
RANK_COMMAND = b"\0-m\0gemfit.train\0"
SAVED = (AttemptOutcome.COMPLETED, AttemptOutcome.STOPPED)
"""After these a rank may take its time to end."""


class LeftOverRanks:
    """The ``expected`` ranks of one launcher, watched from its parent."""

    def __init__(self, run: RunDir, launcher: int, expected: int) -> None:
        self._run, self._launcher, self._expected = run, launcher, expected
        self._since: float | None = None

    def look(self) -> None:
        """Kill the other ranks some seconds after one has ended; to be called every few seconds.

        Those that have not been started yet count as ended: a launcher starts them all within the time.
        """
        ranks = living_ranks(self._launcher)
        if not 0 < len(ranks) < self._expected:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > END_SECONDS and not self._has_saved():
            for rank in ranks:
                with suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGKILL)

    def _has_saved(self) -> bool:
        verdict = self._run.verdict()
        return verdict is not None and verdict.outcome in SAVED


def living_ranks(launcher: int) -> list[int]:
    """Ranks that are children of ``launcher`` and run."""
    found = []
    for listed in Path(f"/proc/{launcher}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in listed.read_text().split() if _is_living_rank(int(child))]
    return found


def _is_living_rank(pid: int) -> bool:
    """Whether a process trains; a zombie has no command line any more."""
    try:
        return RANK_COMMAND in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
