"""The process that sends a training's metrics to experiment trackers; started and ended by rank 0.

It imports the trackers, so that training does not. A line to its standard input says that a checkpoint was
committed: the steps that it holds are final. Its failures never affect training.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import suppress

from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.tracking.derived_trackers import derived_trackers
from gemfit.upload.background_uploader import worker_environment

logger = logging.getLogger(__name__)

KILL_SECONDS = 5.0


class TrackerProcess:
    """Follows one attempt, where its recipe names trackers that are written from records."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run, self._names = run, derived_trackers(plan.recipe.tracking.report_to)
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start the process; on rank 0."""
        if not self._names:
            return
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gemfit.tracking", str(self._run.root), "--follow"],
                env=worker_environment(os.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("the process that writes to trackers cannot be started: %s", error)

    def on_commit(self, step: int) -> None:
        """Say that the checkpoint of ``step`` was committed; returns at once."""
        if self._process is None or self._process.stdin is None:
            return
        with suppress(OSError):  # it has ended, and has said why
            self._process.stdin.write(b"%d\n" % step)
            self._process.stdin.flush()

    def finish(self, seconds: float) -> None:
        """Let it send the rest for up to ``seconds``, then end it."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = _end(process)
        if status != 0:
            logger.warning(
                "not all steps were sent to %s; later: gemfit sync %s", ", ".join(self._names), self._run.root
            )


def _end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
