"""The packing job: signals, requeues, and what it says of a build that failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.ensure_pack import PackFailed
from gemfit_launch.runs.python_module import ModuleKilled
from gemfit_launch.slurm.node import pack_job
from gemfit_launch.slurm.node.end_builder import BuilderEnd
from gemfit_launch.slurm.records.job_files import JobFiles

STUBBORN = """
import signal, sys, time
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
print("ready", flush=True)
while len(seen) < {requests}:
    time.sleep(0.02)
print("ended", flush=True)
"""
PARENT = """
from gemfit_launch.runs.python_module import run_module
from gemfit_launch.slurm.node import end_builder
end_builder.REPEAT_SECONDS = 0.2
end_builder.BuilderEnd.install()
try:
    run_module("stubborn", [])
except Exception as error:
    print(error)
"""


@pytest.fixture
def run(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    made = RunDir.create(tmp_path / "run", plan)
    JobFiles(made).write_script("pack", "")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(BuilderEnd, "install", classmethod(lambda cls: cls()))
    return made


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    monkeypatch.setattr(pack_job, "requeue_job", lambda run, job: made.append(job))
    return made


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def pack(plan: Plan) -> Plan:
        raise error

    monkeypatch.setattr(pack_job, "pack", pack)


@pytest.mark.parametrize("status", [ExitCode.STOPPED, 130, 137, 143, 2, 1, 127])
def test_a_build_that_a_signal_ended_is_requeued(status: int, run: RunDir, requeued: list[str]) -> None:
    assert pack_job.end(run, status, was_asked=True) == ExitCode.FAILED, "the training must not start"
    assert requeued == ["7"]
    assert run.verdict() is None


def test_a_step_that_only_the_tasks_were_told_to_end_is_requeued(run: RunDir, requeued: list[str]) -> None:
    assert pack_job.end(run, ExitCode.STOPPED, was_asked=False) == ExitCode.FAILED
    assert requeued == ["7"]


def test_a_requeue_that_slurm_refuses_leaves_a_verdict(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: RunDir, job: str) -> None:
        raise UserError("scontrol: Requested operation is presently disabled")

    monkeypatch.setattr(pack_job, "requeue_job", refuse)
    assert pack_job.end(run, ExitCode.STOPPED, was_asked=True) == ExitCode.FAILED
    assert "could not be requeued: scontrol: Requested operation is presently disabled" in reason(run)


def test_interruptions_are_bounded(run: RunDir, requeued: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(pack_job.MAX_RESTARTS))
    assert pack_job.end(run, ExitCode.STOPPED, was_asked=True) == ExitCode.FAILED
    assert requeued == []
    assert "interrupted 20 times" in reason(run)


@pytest.mark.parametrize("was_asked", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PackFailed(ExitCode.USER_ERROR), ExitCode.USER_ERROR, "gemfit logs"),
        (PackFailed(ExitCode.FAILED), ExitCode.FAILED, "gemfit logs"),
        (
            ModuleKilled("gemfit.data was killed by SIGKILL"),
            ExitCode.USER_ERROR,
            "SIGKILL; give .*`pack_memory`",
        ),
        (UserError("a.jsonl: is empty"), ExitCode.USER_ERROR, "a.jsonl: is empty"),
    ],
)
def test_a_build_that_failed_is_not_requeued(
    error: Exception,
    code: ExitCode,
    words: str,
    was_asked: bool,
    run: RunDir,
    requeued: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing(monkeypatch, error)
    assert pack_job.build(run) == code
    assert pack_job.end(run, code, was_asked=was_asked) == code
    assert requeued == []
    assert re.search(words, reason(run))


def test_a_build_that_fails_after_a_signal_was_stopped(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = BuilderEnd()
    asked.requests = 1
    monkeypatch.setattr(BuilderEnd, "install", classmethod(lambda cls: asked))
    failing(monkeypatch, UserError("worker 3 was killed by SIGTERM"))
    assert pack_job.build(run) == ExitCode.STOPPED
    assert run.verdict() is None


@pytest.mark.parametrize(
    ("status", "words"), [(137, "memory may have run out"), (127, "ended with status 127")]
)
def test_a_task_that_could_not_say_why_it_ended_leaves_a_verdict(
    status: int, words: str, run: RunDir, requeued: list[str]
) -> None:
    old = Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=3)
    run.write_verdict(old)
    os.utime(run.verdict_file, (time.time() - 100, time.time() - 100))
    assert pack_job.end(run, status, was_asked=False) == ExitCode.FAILED
    assert words in reason(run)
    assert requeued == []


@pytest.mark.parametrize(
    ("requests", "last"), [(1, "ended"), (2, "ended"), (9, "stubborn was killed by SIGKILL")]
)
def test_a_builder_that_swallows_a_signal_gets_it_again_and_is_killed_in_the_end(
    requests: int, last: str, tmp_path: Path
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN.format(requests=requests))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGTERM)
        assert parent.stdout.read().startswith(last)


def reason(run: RunDir) -> str:
    verdict = run.verdict()
    assert verdict is not None
    assert verdict.outcome is AttemptOutcome.FATAL
    return verdict.reason
