"""Ranks that do not end with the others are killed, unless the run has saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import Plan
from gemfit_launch.runs import left_over_ranks
from gemfit_launch.runs.left_over_ranks import LeftOverRanks, living_ranks
from realslurm import wait_until

LAUNCHER = """\
import subprocess, sys, time
ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
rank = [sys.executable, "-c", ignore]
ranks = [subprocess.Popen([*rank, "-m", "gemfit.train", "run"]) for _ in range(3)]
other = subprocess.Popen([*rank, "something else"])
sys.stdin.read()
for one in [*ranks, other]:
    one.kill()
"""


@contextmanager
def launcher_of_three() -> Iterator[int]:
    """A process with three ranks that ignore SIGTERM, and another child."""
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: len(living_ranks(process.pid)) == 3, 60)
        yield process.pid
    finally:
        process.communicate()


@pytest.mark.parametrize("outcome", [None, AttemptOutcome.FATAL, AttemptOutcome.COMPLETED])
def test_ranks_left_over_are_killed_unless_the_run_has_saved(
    outcome: AttemptOutcome | None, tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_over_ranks, "END_SECONDS", 0.2)
    run = RunDir.create(tmp_path / "run", plan)
    if outcome is not None:
        run.write_verdict(Verdict(outcome=outcome, attempt=run.begin_attempt(), step=1))
    with launcher_of_three() as launcher:
        watched = LeftOverRanks(run, launcher, 3)
        for _ in range(4):
            watched.look()
            time.sleep(0.1)
        assert len(living_ranks(launcher)) == 3, "all ranks run"
        os.kill(living_ranks(launcher)[0], signal.SIGKILL)
        wait_until(lambda: len(living_ranks(launcher)) == 2, 30)
        watched.look()
        assert len(living_ranks(launcher)) == 2, "the others get some time"
        time.sleep(0.3)
        watched.look()
        left = 2 if outcome is AttemptOutcome.COMPLETED else 0
        wait_until(lambda: len(living_ranks(launcher)) == left, 30)


def test_a_rank_that_ended_before_the_first_look_is_missed_as_well(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_over_ranks, "END_SECONDS", 0.2)
    run = RunDir.create(tmp_path / "run", plan)
    with launcher_of_three() as launcher:
        os.kill(living_ranks(launcher)[0], signal.SIGKILL)
        wait_until(lambda: len(living_ranks(launcher)) == 2, 30)
        watched = LeftOverRanks(run, launcher, 3)
        watched.look()
        time.sleep(0.3)
        watched.look()
        wait_until(lambda: not living_ranks(launcher), 30)
