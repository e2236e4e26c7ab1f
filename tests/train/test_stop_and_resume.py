"""A run that is stopped and resumed is the run that was never stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import StartPart
from gemfit_launch.runs.local import descendants

if TYPE_CHECKING:
    from train.conftest import Attempts, Launch

pytestmark = [pytest.mark.dist, pytest.mark.slow]

TWENTY = {"length__max_steps": 20, "checkpoint__every_steps": 5}


@pytest.mark.parametrize("strategy", ["fsdp2"])
def test_stopped_at_7_of_20_and_resumed_equals_uninterrupted(
    strategy: str, launch: Launch, fresh_run: Launch
) -> None:
    whole, stopped = launch(strategy, 2, **TWENTY), fresh_run(strategy, 2, **TWENTY)
    stopped.launch(stop_at=7)
    verdict = stopped.verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.step) == (AttemptOutcome.STOPPED, 7)
    stopped.launch()
    assert stopped.verdict is not None
    assert stopped.verdict.outcome == AttemptOutcome.COMPLETED, stopped.log(2)
    assert [record.step for record in stopped.steps] == list(range(1, 21))
    assert [record.attempt for record in stopped.steps] == [1] * 7 + [2] * 13
    assert [r.rows_digest for r in stopped.steps] == [r.rows_digest for r in whole.steps]
    assert stopped.losses == pytest.approx(whole.losses, rel=1e-6)
    assert [r.learning_rate for r in stopped.steps] == [r.learning_rate for r in whole.steps]
    starts = [line for line in stopped.lines if line["kind"] == "start"]
    assert [(start["attempt"], start["step"]) for start in starts] == [(1, 1), (2, 8)]
    for start in starts:
        assert list(start["parts"]) == [p for p in get_args(StartPart) if p in start["parts"]]
        assert sum(start["parts"].values()) == pytest.approx(start["seconds"])
        assert min(start["parts"][part] for part in ("launcher", "processes", "imports")) > 0
    assert stopped.log(2).count("start: ") == 1


def test_a_signal_to_one_rank_stops_all_of_them_at_the_same_step(fresh_run: Launch) -> None:
    attempts = fresh_run("ddp", 2, length__max_steps=5000)
    sender = threading.Thread(target=_signal_one_rank, args=(attempts,))
    sender.start()
    attempts.launch()
    sender.join()
    assert attempts.verdict is not None, attempts.log()
    assert attempts.verdict.outcome == AttemptOutcome.STOPPED
    step = attempts.verdict.step
    assert attempts.steps[-1].step == step
    assert attempts.run.checkpoint(step).is_dir()
    assert "received SIGUSR1" in attempts.log() or "another rank was asked to" in attempts.log()


def _signal_one_rank(attempts: Attempts) -> None:
    deadline = time.monotonic() + 60
    while not attempts.run.metrics_file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks = [pid for pid in descendants(os.getpid()) if _is_rank_of(attempts.run.root, pid)]
    os.kill(max(ranks), signal.SIGUSR1)


def _is_rank_of(root: Path, pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return "gemfit.train" in command and str(root) in command and "accelerate" not in " ".join(command)
