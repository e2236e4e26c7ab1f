"""Nodes that a requeued job leaves out: those that failed, and slow ones for a while."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import SlowRankRecord
from gemfit_launch.planning.replan import on_nodes
from gemfit_launch.slurm.node.excluded_nodes import failed_in_job, slow_of_job
from gemfit_launch.slurm.records.job_attempts import (
    AttemptEnd,
    AttemptFiles,
    AttemptStart,
    JobAttempt,
)
from launch.slurm_job.hooks import SHOWN, Calls, begin, end, fail, show


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
    avoiding_run: RunDir, calls: Calls, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, node in enumerate(["n2", "", "", ""], start=1):
        assert "used again" not in capfd.readouterr().err
        slow_attempt(avoiding_run, node, 20 * number, tmp_path)
    assert calls() == [
        *["requeue 7", "update JobId=7 ExcNodeList=n2", "requeue 7", "requeue 7"],
        *["requeue 7", "update JobId=7 ExcNodeList="],
    ]
    assert "n2 was slow some attempts ago and may be used again" in capfd.readouterr().err


def test_slow_nodes_come_back_where_too_few_others_are_left(
    avoiding_run: RunDir, calls: Calls, tmp_path: Path
) -> None:
    slow_attempt(avoiding_run, "n2", 20, tmp_path)
    tool = tmp_path / "bin" / "scontrol"
    tool.write_text(tool.read_text().replace("for n in n1 n2 n3", "for n in n1 n2"))
    slow_attempt(avoiding_run, "n1", 40, tmp_path)
    assert calls()[-2:] == ["requeue 7", "update JobId=7 ExcNodeList="]


def test_a_slow_node_makes_room_for_one_that_failed(
    avoiding_run: RunDir, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = avoiding_run.plan()
    avoiding_run.plan_file.write_text(plan.model_copy(update={"node_counts": (2,)}).to_json())
    slow_attempt(avoiding_run, "n2", 20, tmp_path)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n3")
    begin(avoiding_run)
    fail(avoiding_run, "n3", 1, at_fault=True)
    assert end(avoiding_run) == ExitCode.DONE
    assert calls()[-2:] == ["requeue 7", "update JobId=7 ExcNodeList=n3"], "two of the three are needed"


def test_a_node_that_failed_is_not_freed_because_it_was_slow_as_well(
    avoiding_run: RunDir, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(avoiding_run)
    files = AttemptFiles(avoiding_run, 1)
    ended = AttemptEnd(
        attempt=1, outcome=AttemptOutcome.CRASHED, step=0, node="n2", at_fault=True, slow=("n2",), time=0
    )
    files.write(files.end, ended)
    show(tmp_path, "RUNNING", restarts=1)
    shown = tmp_path / "job"
    shown.write_text(shown.read_text().replace("ExcNodeList=(null)", "ExcNodeList=n2"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n3")
    plan = avoiding_run.plan()
    avoiding_run.plan_file.write_text(plan.model_copy(update={"node_counts": (2,)}).to_json())
    slow_attempt(avoiding_run, "n3", 20, tmp_path)
    assert calls() == ["requeue 7"], "without n3 too few are left, and n2 stays excluded"


@pytest.mark.parametrize("refused", ["show nodes", "update JobId=7"])
def test_a_job_whose_excluded_nodes_cannot_be_changed_is_requeued(
    refused: str, run: RunDir, calls: Calls, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tool = tmp_path / "bin" / "scontrol"
    refusal = f'[ "$1 $2" != "{refused}" ] || {{ echo "Access denied" >&2; exit 1; }}\n'
    tool.write_text(tool.read_text() + refusal)
    begin(run)
    fail(run, "n2", 1, at_fault=True)
    assert end(run) == ExitCode.DONE
    assert calls()[0] == "requeue 7"
    assert run.verdict() is None
    said = capfd.readouterr().err
    assert "the excluded nodes of the job stay as they are: " in said
    assert said.endswith("gemfit: requeued\n")


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
