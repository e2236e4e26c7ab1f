"""Cooperative stop (preemption): all ranks agree to stop after the same step.

A signal, the stop file or ``--stop-at`` only sets a flag on some rank. At each step boundary the flags
are summed over all ranks, so that every rank saves the same step and leaves.
"""

from __future__ import annotations

import logging
import signal
from types import FrameType

import torch
import torch.distributed as dist

from gemfit.core.stop_signals import PREEMPTION_SIGNALS
from gemfit.rundir import RunDir
from gemfit.train.collective import rank

logger = logging.getLogger(__name__)


class Stop:
    """Stop requests of any rank (signal, stop file, ``--stop-at``), and the agreement on them."""

    def __init__(self, run: RunDir, stop_at: int | None, device: torch.device) -> None:
        self._run, self._stop_at, self._device = run, stop_at, device
        self._signal: int | None = None
        self.agreed = False
        """True on every rank once they have agreed, never on some."""

    def listen(self) -> None:
        """Handle ``SIGUSR1`` and ``SIGTERM`` as stop requests, in this process, from now on."""
        for number in PREEMPTION_SIGNALS:
            signal.signal(number, self._on_signal)

    def agree(self, step: int, *values: float) -> list[float]:
        """Agree whether to stop after ``step``; returns ``values`` summed over all ranks.

        Collective: one all-reduce of a few numbers.
        """
        reason = self._reason(step)
        sums = torch.tensor([float(reason is not None), *values], dtype=torch.float64, device=self._device)
        if dist.is_initialized():
            dist.all_reduce(sums)
        votes, *summed = sums.tolist()
        if votes and not self.agreed:
            self.agreed = True
            logger.info("stopping after step %d: %s", step, reason or "another rank was asked to")
        return summed

    def _reason(self, step: int) -> str | None:
        if self._signal is not None:
            return f"received {signal.Signals(self._signal).name}"
        if self._stop_at is not None and step >= self._stop_at:
            return f"--stop-at {self._stop_at}"
        # Only one rank looks: 1,000 ranks polling a shared file system at every step would slow it down.
        if rank() == 0 and self._run.stop_file.exists():
            return f"{self._run.stop_file} is there"
        return None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
