"""What follows a crash: the same job again, the queue without a node, or the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import SlowRankRecord
from gemfit_launch.planning.replan import on_nodes
from gemfit_launch.slurm.node import job
from gemfit_launch.slurm.node.excluded_nodes import failed_in_job, slow_of_job
from gemfit_launch.slurm.records.job_attempts import (
    AttemptEnd,
    AttemptFiles,
    AttemptStart,
    JobAttempt,
    read_attempts,
)
from launch.slurm_job.hooks import SHOWN, Calls, begin, crash, end, fail


def test_a_crash_begins_again_in_the_job_then_in_the_queue_until_max_restarts(
    run: RunDir, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for _ in range(3):
        code = crash(run, max_restarts=2)
        said.append((code, capsys.readouterr().out.splitlines()[1:], calls()))
    assert said == [
        (ExitCode.DONE, ["again"], []),
        (ExitCode.DONE, [], ["requeue 7"]),
        (ExitCode.FAILED, [], ["requeue 7"]),
    ]
    verdict = run.verdict()
    assert verdict is not None
    assert "a broken part" in verdict.reason


def test_a_checkpoint_between_two_crashes_lets_both_begin_again_in_the_job(
    run: RunDir, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (3, 6, 9):
        assert begin(run) == ExitCode.DONE
        run.checkpoint(step).mkdir()
        fail(run, "n1", 0, at_fault=False)
        assert end(run) == ExitCode.DONE
        assert capsys.readouterr().out.endswith("again\n")
    assert calls() == []
    assert [attempt.start.nodes for attempt in read_attempts(run)] == 3 * [("n1", "n2")]


def test_the_log_of_the_node_that_failed_is_in_the_log_of_the_job(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    run.log(run.attempt).write_text("the last words\n")
    fail(run, "n1", 0, at_fault=False)
    end(run)
    assert "n1 | the last words" in capsys.readouterr().err


@pytest.mark.parametrize("why", ["a signal", "preempted", "a fault of the node", "no node began"])
def test_a_crash_goes_through_the_queue_where_the_job_cannot_go_on(
    why: str, run: RunDir, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    if why != "no node began":
        fail(run, "n2", 1, at_fault=why == "a fault of the node")
    if why == "preempted":
        shown = (tmp_path / "job").read_text()
        (tmp_path / "job").write_text(f"{shown}   PreemptTime=2026-11-30T10:00:00\n")
    assert job.end(run, 1, max_restarts=1, was_asked=why == "a signal") == ExitCode.DONE
    assert "again" not in capsys.readouterr().out
    assert calls()[0] == "requeue 7"


def test_nodes_that_srun_has_ended_do_not_keep_the_job_from_beginning_again(
    run: RunDir, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run)
    run.stop_file.write_text("requeue\n")  # as a supervisor does when srun terminates it
    fail(run, "n2", 1, at_fault=False)
    assert end(run) == ExitCode.DONE
    assert capsys.readouterr().out.endswith("again\n")
    assert calls() == []
    assert begin(run) == ExitCode.DONE
    assert not run.stop_file.exists()


def test_the_next_attempt_avoids_a_node_that_failed(run: RunDir, calls: Calls) -> None:
    begin(run)
    fail(run, "n2", 1, at_fault=True)
    assert end(run) == ExitCode.DONE
    assert calls() == ["requeue 7", "update JobId=7 ExcNodeList=n2"]


@pytest.mark.parametrize("avoids", [True, False])
def test_the_next_attempt_avoids_a_slow_node_where_the_site_says_so(
    run: RunDir, calls: Calls, avoids: bool
) -> None:
    plan = run.plan()
    assert plan.site is not None
    site = plan.site.model_copy(update={"avoid_slow_nodes": avoids})
    run.plan_file.write_text(plan.model_copy(update={"site": site}).to_json())
    begin(run)
    records = [
        SlowRankRecord(
            attempt=attempt, step=20, rank=1, host=host, cause="input", seconds=2, others_seconds=1, time=0
        )
        for attempt, host in ((run.attempt, "n2"), (run.attempt, "elsewhere"), (run.attempt - 1, "n1"))
    ]
    run.metrics_file.write_text("".join(record.model_dump_json() + "\n" for record in records))
    assert end(run, AttemptOutcome.STOPPED, step=20) == ExitCode.DONE
    assert calls() == ["requeue 7", *(["update JobId=7 ExcNodeList=n2"] if avoids else [])]


def slow_attempt(run: RunDir, node: str, step: int, state: Path) -> None:
    """An attempt in which ``node`` was slow, if any, and a requeue; Slurm then shows what is excluded."""
    assert begin(run) == ExitCode.DONE
    record = SlowRankRecord(
        attempt=run.attempt,
        step=step,
        rank=1,
        host=node,
        cause="input",
        seconds=2,
        others_seconds=1,
        time=0,
    )
    run.metrics_file.write_text(record.model_dump_json() + "\n" if node else "")
    run.checkpoint(step).mkdir()
    assert end(run, AttemptOutcome.STOPPED, step=step) == ExitCode.DONE
    for line in (state / "calls").read_text().splitlines():
        if line.startswith("update"):
            now = line.partition("ExcNodeList=")[2] or "(null)"
            shown = re.sub(r"ExcNodeList=\S*", f"ExcNodeList={now}", SHOWN)
            (state / "job").write_text(shown.format(state="RUNNING", restarts=0))


@pytest.fixture
def avoiding_run(run: RunDir) -> RunDir:
    """A run on one node or two whose site avoids slow nodes."""
    plan = run.plan()
    assert plan.site is not None
    site = plan.site.model_copy(update={"avoid_slow_nodes": True})
    run.plan_file.write_text(plan.model_copy(update={"site": site, "node_counts": (1, 2)}).to_json())
    return run


def test_a_slow_node_comes_back_after_three_attempts(
    avoiding_run: RunDir, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, node in enumerate(["n2", "", "", ""], start=1):
        assert "used again" not in capsys.readouterr().err
        slow_attempt(avoiding_run, node, 20 * number, tmp_path)
    assert calls() == [
        *["requeue 7", "update JobId=7 ExcNodeList=n2", "requeue 7", "requeue 7"],
        *["requeue 7", "update JobId=7 ExcNodeList="],
    ]
    assert "n2 was slow some attempts ago and may be used again" in capsys.readouterr().err


def test_slow_nodes_come_back_where_too_few_others_are_left(
    avoiding_run: RunDir, calls: Calls, tmp_path: Path
) -> None:
    slow_attempt(avoiding_run, "n2", 20, tmp_path)
    tool = tmp_path / "bin" / "scontrol"
    tool.write_text(tool.read_text().replace("for n in n1 n2 n3", "for n in n1 n2"))
    slow_attempt(avoiding_run, "n1", 40, tmp_path)
    assert calls()[-2:] == ["requeue 7", "update JobId=7 ExcNodeList="]


def test_a_node_that_failed_after_it_was_slow_stays_away() -> None:
    ends = [
        AttemptEnd(attempt=1, outcome=AttemptOutcome.STOPPED, step=1, slow=("n1", "n2"), time=0),
        AttemptEnd(attempt=2, outcome=AttemptOutcome.CRASHED, step=1, node="n2", at_fault=True, time=0),
    ]
    attempts = [
        JobAttempt(AttemptStart(attempt=number, job="7", nodes=("n1",), step=0, time=0), ended)
        for number, ended in enumerate([*ends, *[None] * 3], start=1)
    ]
    assert slow_of_job(attempts, "7") == ((), ("n1", "n2"))
    assert failed_in_job(attempts, "7") == ("n2",)
    assert slow_of_job(attempts, "8") == ((), ())


def test_a_node_is_not_avoided_where_too_few_would_be_left(
    run: RunDir, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n2,n3")
    run.adopt(on_nodes(run.plan(), 3))
    begin(run)
    fail(run, "n2", 1, at_fault=True)
    assert end(run) == ExitCode.DONE
    assert calls() == ["requeue 7"]


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
