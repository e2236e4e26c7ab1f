"""`gemfit status` of runs that are Slurm jobs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm, status_of
from launch.slurm_runs.job_runs import begin_in_job, check_status

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize(
    ("reason", "start", "words"),
    [
        ("Priority", "N/A", "Priority: jobs of higher priority come first"),
        ("Resources", "2030-01-01T00:00:00", "expected to start 2030-01-01T00:00:00"),
        ("PartitionNodeLimit", "N/A", "it never starts"),
        ("DependencyNeverSatisfied", "N/A", "has failed, so it never starts"),
        ("ReqNodeNotAvail, UnavailableNodes:n3", "N/A", "down or reserved"),
        ("SomethingNew", "N/A", "SomethingNew"),
    ],
)
def test_status_says_why_a_job_waits(
    reason: str, start: str, words: str, submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "PENDING", reason, start=start)
    assert words in status_of(cli, submitted)["waits_for"]
    shown = cli("status", submitted.root).output
    assert words.split(":")[0] in re.sub(r"\s+", " ", shown)
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("job", "verdict", "stop", "state"),
    [
        ("PENDING", None, None, "pending"),
        ("RUNNING", None, None, "running"),
        ("COMPLETING", None, None, "running"),
        ("RUNNING", None, "stop", "stopping"),
        ("RUNNING", None, "requeue", "running"),
        ("SUSPENDED", None, None, "suspended"),
        ("COMPLETED", AttemptOutcome.COMPLETED, None, AttemptOutcome.COMPLETED),
        ("COMPLETED", AttemptOutcome.STOPPED, None, AttemptOutcome.STOPPED),
        ("FAILED", AttemptOutcome.FAILED, None, AttemptOutcome.FAILED),
        ("CANCELLED", None, None, AttemptOutcome.CANCELLED),
        ("NODE_FAIL", None, None, AttemptOutcome.INTERRUPTED),
        ("PREEMPTED", None, None, AttemptOutcome.INTERRUPTED),
        ("PREEMPTED", AttemptOutcome.STOPPED, None, AttemptOutcome.STOPPED),
        ("TIMEOUT", None, None, AttemptOutcome.INTERRUPTED),
        ("OUT_OF_MEMORY", None, None, AttemptOutcome.CRASHED),
        ("FAILED", None, None, AttemptOutcome.CRASHED),
        ("SPECIAL_EXIT", None, None, "pending"),
        ("REQUEUE_HOLD", None, None, "pending"),
        ("CONFIGURING", None, None, "pending"),
        ("SIGNALING", None, None, "running"),
        ("STOPPED", None, None, "suspended"),
        ("REVOKED", None, None, "unknown"),
        ("HIBERNATING", None, None, "unknown"),
        (None, AttemptOutcome.COMPLETED, None, AttemptOutcome.COMPLETED),
        (None, None, None, AttemptOutcome.CRASHED),
    ],
)
def test_the_state_of_a_run_is_the_jobs_and_after_its_end_the_verdicts(
    job: str | None,
    verdict: Any,
    stop: str | None,
    state: str,
    submitted: RunDir,
    cli: Cli,
    slurm: FakeSlurm,
) -> None:
    begin_in_job(submitted, 100)
    if verdict is not None:
        submitted.write_verdict(Verdict(outcome=verdict, attempt=1, step=3, reason="as it is"))
    if stop is not None:
        submitted.stop_file.write_text(f"{stop}\n")
    if job is None:
        slurm.forget_all()
    else:
        slurm.set_job(100, job)
    assert status_of(cli, submitted)["state"] == state


@pytest.mark.parametrize(
    ("job", "state", "words"),
    [
        ("FAILED", "failed", "ended with an error before its first attempt; `gemfit logs runs/first --job`"),
        ("PREEMPTED", "interrupted", "was preempted, and Slurm did not requeue it before its first attempt"),
        ("BOOT_FAIL", "interrupted", "did not boot before its first attempt"),
        ("CANCELLED", "cancelled", ""),
    ],
)
def test_a_job_that_ended_before_its_first_attempt_has_a_state_and_a_reason(
    job: str, state: str, words: str, submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, job)
    check_status(cli, submitted, state, words)


@pytest.mark.parametrize(
    ("pack", "state", "words"),
    [
        ("PREEMPTED", "interrupted", "packing job 100: the job was preempted"),
        ("OUT_OF_MEMORY", "failed", "packing job 100: the job was killed: its memory ran out"),
        ("CANCELLED", "cancelled", ""),
        ("COMPLETED", "cancelled", ""),
    ],
)
def test_a_training_job_that_slurm_cancelled_shows_how_its_packing_job_ended(
    pack: str, state: str, words: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    cli("submit", *ASKED, "--run", "runs/first")
    slurm.set_job(100, pack)
    slurm.set_job(101, "CANCELLED")
    check_status(cli, RunDir(Path("runs/first")), state, words)


def test_the_reason_of_the_attempt_before_is_not_shown_while_a_new_job_is_pending(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    begin_in_job(submitted, 100)
    submitted.write_verdict(Verdict(outcome=AttemptOutcome.FATAL, attempt=1, step=0, reason="no such file"))
    slurm.set_job(100, "FAILED")
    assert status_of(cli, submitted)["reason"] == "no such file"
    assert cli("resume", submitted.root).exit_code == 0
    found = status_of(cli, submitted)
    assert (found["state"], found["reason"]) == ("pending", "")


def test_a_pack_that_failed_is_why_the_run_failed(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    submitted.write_verdict(
        Verdict(outcome=AttemptOutcome.FATAL, attempt=0, step=0, reason="conversations.jsonl:3: is not JSON")
    )
    slurm.set_job(100, "CANCELLED")
    found = status_of(cli, submitted)
    assert (found["state"], found["reason"]) == (AttemptOutcome.FATAL, "conversations.jsonl:3: is not JSON")


LINE = "100|RUNNING|2026-11-30T09:25:10|None|first"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (f"{LINE}\n", "running"),
        (f"CLUSTER: big\n{LINE}\n", "running"),
        (f"2026|maintenance on Friday\n  {LINE}  \r\n", "running"),
        (LINE.replace("RUNNING", "RUNNING,SIGNALING"), "running"),
        (LINE.replace("RUNNING", "running"), "unknown"),
        (LINE[:20], "unknown"),
        ("100|\n", "unknown"),
    ],
)
def test_a_job_that_squeue_prints_in_another_way_is_not_taken_for_one_that_has_ended(
    answer: str, state: str, submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "answer").write_text(answer)
    (slurm.folder / "squeue").write_text(f"#!/bin/sh\ncat {slurm.folder}/answer\n")
    assert status_of(cli, submitted)["state"] == state
    assert cli("resume", submitted.root).exit_code == 2
    assert len(slurm.calls("sbatch")) == 1


@pytest.mark.parametrize("ahead", [-86_400, 0, 86_400])
def test_a_verdict_is_told_from_an_older_one_whatever_the_clock_of_the_login_node(
    ahead: int, submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    begin_in_job(submitted, 99)  # of an earlier job
    path = JobFiles(submitted).submissions_file
    shifted = re.sub(
        r'"time": ([0-9.]+)', lambda found: f'"time": {float(found[1]) + ahead}', path.read_text()
    )
    path.write_text(shifted)
    slurm.set_job(100, "FAILED")
    reason = {"outcome": AttemptOutcome.FATAL, "attempt": 1, "step": 0, "reason": "not packed"}
    submitted.write_verdict(Verdict.model_validate(reason))
    assert status_of(cli, submitted)["reason"] == "not packed"
    os.utime(submitted.verdict_file, (1, 1))  # that of the earlier job
    assert "before its first attempt" in status_of(cli, submitted)["reason"]


def test_where_slurm_does_not_answer_the_state_is_unknown_with_its_message(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    found = status_of(cli, submitted)
    assert found["state"] == "unknown"
    assert "Unable to contact slurm controller" in found["waits_for"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", "{"),
        ("verdict.json", '{"outcome": "lost"}'),
        ("slurm/submissions.json", ""),
        ("metrics.jsonl", '{"kind":"step","loss":"high"}\n{"kind":"st'),
        ("attempt", ""),
        ("attempt", "one\n"),
    ],
)
def test_a_damaged_run_does_not_hide_the_others(
    name: str, content: str, submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    damaged = RunDir.create(Path("runs/damaged"), submitted.plan())
    (damaged.root / "slurm").mkdir()
    (damaged.root / name).write_text(content)
    result = cli("status", "--json")
    assert result.exit_code == 0, result.output
    states = {Path(one["run"]).name: (one["state"], one["reason"]) for one in json.loads(result.stdout)}
    assert states[submitted.root.name][0] == "pending"
    if name in ("metrics.jsonl", "attempt"):
        assert states["damaged"] == ("new", "")
    else:
        assert (states["damaged"][0], name in states["damaged"][1]) == ("damaged", True)
