"""`gemfit stop` and `gemfit cancel` of runs that are Slurm jobs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm, status_of
from launch.slurm_runs.job_runs import begin_in_job

pytestmark = pytest.mark.usefixtures("slurm")


def test_a_preempted_job_that_slurm_does_not_requeue_can_be_resumed(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    begin_in_job(submitted, 100)
    slurm.set_job(100, "PREEMPTED")
    assert "was preempted" in status_of(cli, submitted)["reason"]
    assert "is not running (interrupted)" in cli("stop", submitted.root).output
    assert "has no pending or running job" in cli("cancel", submitted.root).output
    assert cli("status", submitted.root, "--watch").exit_code == 0
    assert cli("resume", submitted.root).exit_code == 0
    assert len(slurm.calls("sbatch")) == 2


def test_a_job_in_an_unknown_state_is_shown_as_it_is_and_neither_resumed_nor_cancelled(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "HIBERNATING")
    assert "HIBERNATING: gemfit does not know this state" in status_of(cli, submitted)["waits_for"]
    assert "job 100 is hibernating (gemfit does not know" in cli("resume", submitted.root).stderr
    assert "HIBERNATING" in cli("stop", submitted.root).output
    assert submitted.stop_file.exists()
    assert slurm.calls("scancel") == []


def test_stop_works_by_the_stop_file_where_slurm_does_not_answer(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    result = cli("stop", submitted.root)
    assert (result.exit_code, "Unable to contact" in result.output) == (0, True)
    assert submitted.stop_file.read_text() == "stop\n"


def test_another_job_with_the_same_id_is_not_the_runs(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    slurm.set_job(100, "RUNNING", name="of somebody else")
    assert status_of(cli, submitted)["state"] == "new"
    assert "has no pending or running job" in cli("cancel", submitted.root).output
    assert slurm.calls("scancel") == []


def test_stop_cancels_a_job_that_waits_and_asks_one_that_runs(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "RUNNING")
    assert "asked to save and end" in cli("stop", submitted.root).output
    assert submitted.stop_file.read_text() == "stop\n"
    assert slurm.calls("scancel") == []
    slurm.set_job(100, "PENDING")
    assert "was pending and is cancelled" in cli("stop", submitted.root).output
    assert [call["arguments"] for call in slurm.calls("scancel")] == [["100"]]
    assert "is not running" in cli("stop", submitted.root).output


def test_cancel_ends_the_training_before_the_packing_it_waits_for(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    cli("submit", *ASKED, "--run", "runs/first")
    assert cli("cancel", "runs/first").exit_code == 0
    assert [call["arguments"] for call in slurm.calls("scancel")] == [["101"], ["100"]]
    assert "has no pending or running job" in cli("cancel", "runs/first").output


@pytest.mark.parametrize("verb", ["cancel", "stop"])
@pytest.mark.parametrize("attempts", [0, 1])
def test_cancelled_stays_cancelled_when_slurm_forgets(
    verb: str, attempts: int, submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    for _ in range(attempts):
        begin_in_job(submitted, 100)
    assert cli(verb, submitted.root).exit_code == 0
    for forget in (False, True):
        if forget:
            slurm.forget_all()
        assert status_of(cli, submitted)["state"] == AttemptOutcome.CANCELLED
    assert cli("resume", submitted.root).exit_code == 0
    assert status_of(cli, submitted)["state"] == "pending"


def test_a_folder_that_cannot_be_written_keeps_no_job_from_being_cancelled(
    conversations: Path,
    cli: Cli,
    slurm: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def read_only(files: JobFiles, job: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "x")

    cli("submit", *ASKED, "--run", "runs/first")
    monkeypatch.setattr(JobFiles, "record_cancelled", read_only)
    result = cli("cancel", "runs/first")
    assert result.exit_code == 0, result.output
    assert [call["arguments"] for call in slurm.calls("scancel")] == [["101"], ["100"]]
    assert "runs/first: cannot be written: Read-only file system" in caplog.text
