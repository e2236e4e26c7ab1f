"""Requeue before the time limit, and limits that are too short."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.slurm.node.time_limit import requeue_before_limit, seconds_left
from gemfit_launch.slurm.records.job_attempts import (
    LIMIT_REACHED,
    MAX_FRUITLESS_STOPS,
    AttemptFiles,
    read_attempts,
)
from launch.slurm_job.hooks import Calls, begin, crash, end, show


def test_a_job_at_its_limit_is_requeued_and_counts_as_interrupted(
    run: RunDir, calls: Calls, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    text = (tmp_path / "job").read_text().replace("RunTime=00:10:00", "RunTime=00:59:50")
    (tmp_path / "job").write_text(text)
    assert requeue_before_limit(run, 1) == ExitCode.DONE
    assert calls() == ["requeue 7"]
    assert "time limit is reached before a save" in capfd.readouterr().err
    show(tmp_path, "COMPLETING", restarts=1)
    assert end(run) == ExitCode.DONE
    [attempt] = read_attempts(run)
    assert attempt.end is not None
    assert (attempt.end.outcome, attempt.end.reason) == (AttemptOutcome.INTERRUPTED, LIMIT_REACHED)
    assert calls() == ["requeue 7"]


def test_a_job_at_its_limit_comes_back_without_a_node_that_failed(
    run: RunDir, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n2")
    run.plan_file.write_text(run.plan().model_copy(update={"node_counts": (1, 2)}).to_json())
    crash(run, at_fault=True)
    assert begin(run) == ExitCode.DONE  # on n1 alone
    (tmp_path / "job").write_text((tmp_path / "job").read_text().replace("00:10:00", "00:59:59"))
    before = len(calls())
    assert requeue_before_limit(run, 2) == ExitCode.DONE
    assert calls()[before:] == ["requeue 7", "update JobId=7 ExcNodeList=n2"]


def test_a_batch_script_killed_at_its_limit_is_recorded_by_the_next_attempt(run: RunDir) -> None:
    begin(run)
    AttemptFiles(run, 1).limit.touch()
    begin(run)
    first = read_attempts(run)[0]
    assert first.end is not None
    assert (first.end.outcome, first.end.reason) == (AttemptOutcome.INTERRUPTED, LIMIT_REACHED)


def test_a_stop_by_command_is_not_requeued_at_the_limit(run: RunDir, calls: Calls, tmp_path: Path) -> None:
    begin(run)
    run.request_stop()
    (tmp_path / "job").write_text((tmp_path / "job").read_text().replace("00:10:00", "00:59:59"))
    assert requeue_before_limit(run, 1) == ExitCode.DONE
    assert calls() == []


@pytest.mark.parametrize(
    ("state", "times", "left"),
    [
        ("RUNNING", "RunTime=00:10:00 TimeLimit=01:00:00", 3000),
        ("RUNNING", "RunTime=01:10:00 TimeLimit=01:00:00", 0),
        ("RUNNING", "RunTime=1-00:00:00 TimeLimit=2-00:00:00 PreemptTime=None", 24 * 3600),
        ("RUNNING", "RunTime=00:10:00 TimeLimit=01:00:00 PreemptTime=2026-11-30T10:00:00", None),
        ("RUNNING", "RunTime=00:10:00 TimeLimit=UNLIMITED", None),
        ("COMPLETING", "RunTime=00:10:00 TimeLimit=01:00:00", None),
        ("CANCELLED", "RunTime=00:10:00 TimeLimit=01:00:00", None),
    ],
)
def test_seconds_to_the_time_limit(state: str, times: str, left: int | None) -> None:
    assert seconds_left(f"JobState={state} Reason=None\n {times}") == left


def test_a_limit_below_the_lead_of_the_signal_is_said(
    run: RunDir, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job").write_text((tmp_path / "job").read_text().replace("01:00:00", "00:01:00"))
    begin(run)
    assert "warning: the job has 60 seconds" in capfd.readouterr().err


def test_stops_right_after_the_start_are_bounded_and_said(
    run: RunDir, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    for step in range(1, MAX_FRUITLESS_STOPS + 2):
        assert begin(run) == ExitCode.DONE
        run.checkpoint(step).mkdir()
        assert end(run, AttemptOutcome.STOPPED, step=step) == ExitCode.DONE
    assert "warning: stopped 10 times in a row within 2 steps" in capfd.readouterr().err
    assert begin(run) == ExitCode.FAILED
    verdict = run.verdict()
    assert verdict is not None
    assert "stopped 11 times in a row within 2 steps of the start" in verdict.reason


def test_a_stop_after_more_steps_ends_the_count(run: RunDir) -> None:
    for step in range(3, 3 * MAX_FRUITLESS_STOPS + 9, 3):
        assert begin(run) == ExitCode.DONE
        run.checkpoint(step).mkdir()
        end(run, AttemptOutcome.STOPPED, step=step)
    assert begin(run) == ExitCode.DONE
