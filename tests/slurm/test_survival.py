"""Runs on a real Slurm: preempted, stopped, cancelled, crashed; and what comes back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.slurm.records.job_attempts import AttemptFiles
from slurmruns import BACK_IN_THE_QUEUE_SECONDS, Bench, SlurmRun, losses_by_step

pytestmark = [pytest.mark.slurm, pytest.mark.dist, pytest.mark.slow]

STEPS = 100  # some ten seconds: enough for an urgent job to come in between
CRASH = """\
import os, sys
if sys.orig_argv[-2:-1] == ["gemfit.train"] and "RANK" in os.environ:
    sys.stderr.write("a bug that is always there\\n")
    os._exit(3)
"""


@pytest.fixture(scope="module")
def whole(bench: Bench) -> SlurmRun:
    """A run without interruptions."""
    run = bench.submit("whole", steps=STEPS)
    assert run.await_end() == "COMPLETED", run.explain()
    assert [record.step for record in run.steps] == list(range(1, STEPS + 1))
    return run


def test_a_preempted_job_comes_back_and_ends_as_if_nothing_had_happened(
    bench: Bench, whole: SlurmRun
) -> None:
    run = bench.submit("preempted", steps=STEPS, ranks_per_node=1)
    run.await_step(8)
    bench.preempt()
    run.await_step(STEPS, attempt=2)
    assert run.await_end() == "COMPLETED", run.explain()
    assert [attempt.start.job for attempt in run.attempts] == 2 * [str(run.job)]
    first, second = run.attempts
    assert first.end is not None
    assert first.end.outcome == AttemptOutcome.STOPPED
    assert second.start.step == first.end.step >= 8
    assert len(run.steps) <= STEPS + 1, "at most one step is done twice"
    assert [r.rows_digest for r in whole.steps] == list({r.step: r.rows_digest for r in run.steps}.values())
    assert losses_by_step(run.steps) == pytest.approx(losses_by_step(whole.steps), rel=1e-5)


def test_a_job_is_requeued_where_preemption_would_end_it(bench: Bench) -> None:
    name = "it's a $(run) #1"  # nothing on the way may take it for anything else
    run = bench.submit(name, steps=5000, nodes=1, ranks_per_node=1, partition="lowcancel")
    run.await_step(3)
    bench.preempt()
    run.await_step(1, attempt=2)
    bench.gemfit("cancel", name)
    first, second = run.attempts
    assert first.end is not None
    assert (first.end.outcome, second.start.step) == (AttemptOutcome.STOPPED, first.end.step)
    assert run.await_end() == "CANCELLED", run.explain()


def test_a_stopped_run_ends_and_goes_on_with_other_nodes(bench: Bench, whole: SlurmRun) -> None:
    run = bench.submit("stopped", steps=STEPS, ranks_per_node=1)
    run.await_step(5)
    bench.gemfit("stop", "stopped")
    assert run.await_end() == "COMPLETED", run.explain()
    assert run.verdict is not None
    assert run.verdict.outcome == AttemptOutcome.STOPPED
    assert "requeued" not in run.job_log
    answer = bench.gemfit("resume", "stopped", "--nodes", "1", "--json")
    resumed = SlurmRun(bench, run.run, int(answer.rpartition('"job": ')[2].partition(",")[0]))
    assert resumed.await_end() == "COMPLETED", resumed.explain()
    assert {record.step for record in run.steps} == set(range(1, STEPS + 1))
    assert [r.rows_digest for r in whole.steps] == list({r.step: r.rows_digest for r in run.steps}.values())
    assert losses_by_step(run.steps) == pytest.approx(losses_by_step(whole.steps), rel=1e-4)


def test_a_cancelled_job_saves_and_does_not_come_back(bench: Bench) -> None:
    run = bench.submit("cancelled", steps=5000, ranks_per_node=1)
    run.await_step(3)
    bench.gemfit("cancel", "cancelled")
    run.await_attempt_over(1)
    time.sleep(BACK_IN_THE_QUEUE_SECONDS)
    assert run.state == "CANCELLED", run.explain()
    assert len(run.attempts) == 1
    assert "is not requeued" in run.job_log


def test_a_bug_ends_the_job_after_its_restarts_with_the_output_of_the_rank(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    run = bench.submit(
        "crashing", steps=4, ranks_per_node=1, env={"PYTHONPATH": str(tmp_path)}, max_restarts=1
    )
    assert run.await_end() == "FAILED", run.explain()
    assert [attempt.end and attempt.end.outcome for attempt in run.attempts] == [
        AttemptOutcome.CRASHED,
        AttemptOutcome.CRASHED,
    ]
    assert bench.cluster.job(run.job)["Restarts"] == "0", "the second attempt did not wait in the queue"
    assert "a bug that is always there" in run.job_log
    assert run.verdict is not None
    assert run.verdict.outcome == AttemptOutcome.FAILED
    assert "2 times in a row" in run.verdict.reason


def test_a_hang_is_noticed_and_leaves_the_stacks_of_all_ranks(bench: Bench) -> None:
    run = bench.submit("hanging", steps=5000, every=5, ranks_per_node=1, hang_seconds=20)
    run.await_step(8)
    (rank,) = run.ranks("n2")
    os.kill(rank, signal.SIGSTOP)
    run.await_attempt_over(1)
    run.await_step(1, attempt=2)
    bench.gemfit("cancel", "hanging")
    first, second = run.attempts
    assert first.end is not None
    assert first.end.outcome == AttemptOutcome.CRASHED
    assert "no step for" in first.end.reason
    assert second.start.step >= 5
    for machine in (0, 1):
        log = AttemptFiles(run.run, 1).log(machine).read_text()
        assert "Fatal Python error: Aborted" in log
        assert "gemfit/train/loop/trainer.py" in log
    run.await_end()
