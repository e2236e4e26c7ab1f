"""What follows a crash: the same job again, the queue without a node, or the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit_launch.slurm.node import job
from gemfit_launch.slurm.records.job_attempts import (
    AttemptFiles,
    read_attempts,
)
from launch.slurm_job.hooks import Calls, answered, begin, crash, end, fail


def test_a_crash_begins_again_in_the_job_then_in_the_queue_until_max_restarts(
    run: RunDir, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    said = []
    for _ in range(3):
        code = crash(run, max_restarts=2)
        said.append((code, answered(capfd), calls()))
    assert said == [
        (ExitCode.DONE, ["attempt", "again"], []),
        (ExitCode.DONE, ["attempt", "leave"], ["requeue 7"]),
        (ExitCode.FAILED, ["attempt", "leave"], ["requeue 7"]),
    ]
    verdict = run.verdict()
    assert verdict is not None
    assert "a broken part" in verdict.reason


def test_a_checkpoint_between_two_crashes_lets_both_begin_again_in_the_job(
    run: RunDir, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    for step in (3, 6, 9):
        assert begin(run) == ExitCode.DONE
        run.checkpoint(step).mkdir()
        fail(run, "n1", 0, at_fault=False)
        assert end(run) == ExitCode.DONE
        assert answered(capfd) == ["attempt", "again"]
    assert calls() == []
    assert [attempt.start.nodes for attempt in read_attempts(run)] == 3 * [("n1", "n2")]


def test_a_killed_rank_begins_again_on_its_node_once_then_in_the_queue_without_it(
    run: RunDir, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    for expected in ("again", "leave"):
        assert begin(run) == ExitCode.DONE
        fail(run, "n2", 1, at_fault=True, killed=True)
        assert job.end(run, run.attempt, max_restarts=2) == ExitCode.DONE
        assert answered(capfd) == ["attempt", expected]
    assert [attempt.start.nodes for attempt in read_attempts(run)] == 2 * [("n1", "n2")]
    assert calls() == ["requeue 7", "update JobId=7 ExcNodeList=n2"]


def test_the_log_of_the_node_that_failed_is_in_the_log_of_the_job(
    run: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    run.log(run.attempt).write_text("the last words\n")
    fail(run, "n1", 0, at_fault=False)
    end(run)
    assert "n1 | the last words" in capfd.readouterr().err


@pytest.mark.parametrize("why", ["a signal", "preempted", "a fault of the node", "no node began"])
def test_a_crash_goes_through_the_queue_where_the_job_cannot_go_on(
    why: str, run: RunDir, calls: Calls, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    if why != "no node began":
        fail(run, "n2", 1, at_fault=why == "a fault of the node")
    if why == "preempted":
        shown = (tmp_path / "job").read_text()
        (tmp_path / "job").write_text(f"{shown}   PreemptTime=2026-11-30T10:00:00\n")
    assert job.end(run, 1, max_restarts=1, was_asked=why == "a signal") == ExitCode.DONE
    assert answered(capfd) == ["attempt", "leave"]
    assert calls()[0] == "requeue 7"


def test_nodes_that_srun_has_ended_do_not_keep_the_job_from_beginning_again(
    run: RunDir, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    run.stop_file.write_text("requeue\n")  # as a supervisor does when srun terminates it
    fail(run, "n2", 1, at_fault=False)
    assert end(run) == ExitCode.DONE
    assert answered(capfd) == ["attempt", "again"]
    assert calls() == []
    assert begin(run) == ExitCode.DONE
    assert not run.stop_file.exists()


@pytest.mark.parametrize("name", ["start", "end", "node-0"])
@pytest.mark.parametrize("content", ["", "{", '{"attempt": 1, "later": true}'])
def test_a_damaged_record_of_an_attempt_does_not_end_the_run(
    name: str, content: str, run: RunDir, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    begin(run)
    fail(run, "n1", 0, at_fault=False)
    damaged = AttemptFiles(run, 1).folder / f"attempt-1.{name}.json"
    damaged.write_text(content)
    assert end(run) == ExitCode.DONE
    # A node without an exit record counts as lost.
    assert calls() == (["requeue 7", "update JobId=7 ExcNodeList=n1"] if name == "node-0" else [])
    damaged.write_text(content)
    assert begin(run) == ExitCode.DONE
    assert run.attempt == 2
    assert name == "node-0" or f"{damaged}: " in caplog.text
