"""Signals that ask a training to save and stop."""

from __future__ import annotations

import signal

PREEMPTION_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Sent by Slurm to the processes of a job: before the time limit and on preemption."""
STOP_SIGNALS = (*PREEMPTION_SIGNALS, signal.SIGINT, signal.SIGHUP)
"""Those, and what a terminal sends: Ctrl-C and its end."""
