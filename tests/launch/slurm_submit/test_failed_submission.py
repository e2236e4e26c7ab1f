"""Submissions that Slurm or the file system refuses: what is reported, and which folders stay."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from gemfit_launch.slurm import commands
from gemfit_launch.slurm.records.job_files import JobFiles, Submission
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm

pytestmark = pytest.mark.usefixtures("slurm")


def test_a_rejection_by_slurm_is_reported_and_leaves_no_run_folder(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.refuse("sbatch", "sbatch: error: invalid partition specified: low\n")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "invalid partition specified: low" in result.stderr
    assert not Path("runs/first").exists()


def test_where_only_the_training_is_refused_the_packing_is_cancelled(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch.refuses_after").write_text("1")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert (result.exit_code, "accounting policy" in result.stderr) == (2, True)
    assert [call["arguments"] for call in slurm.calls("scancel")] == [["100"]]
    assert Path("runs/first").exists(), "the packing job may have begun"


def test_a_run_folder_stays_where_sbatch_accepted_the_job_without_an_id(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch.answers").write_text("Submitted. Have a nice day.\n")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "printed no clear job id but: Submitted. Have a nice day." in result.stderr
    assert "squeue --me --name=first" in result.stderr
    assert Path("runs/first/plan.json").exists()
    assert slurm.calls("scancel") == []


def test_a_run_folder_stays_where_sbatch_did_not_end_in_time(
    conversations: Path, cli: Cli, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PATIENCE_SECONDS", 2)
    (slurm.folder / "sbatch.hangs").write_text("")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert "within 2 seconds (sbatch: error: sleeping and retrying); a job may have been" in result.stderr
    assert Path("runs/first/plan.json").exists()


LOST = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (f"echo '{LOST}Socket timed out on send/recv operation' >&2; exit 1", "Socket timed out"),
        (f"echo '{LOST}Zero Bytes were transmitted or received' >&2; exit 1", "Zero Bytes"),
        (f"echo '{LOST}Unexpected message received' >&2; exit 1", "Unexpected message"),
        (f"echo '{LOST}Unable to contact slurm controller (receive failure)' >&2; exit 1", "receive failure"),
        ("kill -9 $$", "was killed by signal 9"),
        ("exit 137", "was killed by signal 9"),
        ("echo 7; echo 8; exit 255", "sbatch: 7\nerror: 8; a job may have been submitted (it printed 7, 8)"),
        (
            "echo 123; echo 'mail: not found' >&2; exit 1",
            "mail: not found; a job may have been submitted (it",
        ),
    ],
)
def test_a_run_folder_stays_where_sbatch_may_have_submitted_the_job(
    answer: str, words: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch").write_text(f"#!/bin/bash\n{answer}\n")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert words in result.stderr
    assert "squeue --me --name=first" in result.stderr
    assert Path("runs/first/plan.json").exists()


@pytest.mark.parametrize(
    "answer",
    [
        "Unable to contact slurm controller (connect failure)",
        "Access/permission denied",
        "Invalid account or account/partition combination specified",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "I/O error writing script/environment to file",
    ],
)
def test_a_run_folder_is_removed_where_sbatch_has_certainly_not_submitted(
    answer: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.refuse("sbatch", f"{LOST}{answer}\n")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert (result.exit_code, answer in result.stderr) == (2, True)
    assert not Path("runs/first").exists()


def test_a_full_disk_leaves_no_folder_in_the_way(
    conversations: Path, cli: Cli, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_is_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def code_is_full(source: Path, target: Path, **more: object) -> None:
        raise shutil.Error([("a.py", f"{target}/a.py", "[Errno 28] No space left on device: 'a.py' -> 'x'")])

    for name, full, place in (
        ("os.fsync", plan_is_full, "runs/first/plan.json"),
        ("shutil.copytree", code_is_full, "runs/first/.code/gemfit/a.py"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            result = cli("submit", *ASKED, "--run", "runs/first")
        assert result.exit_code == 2, result.output
        assert f"error: {place}: " in result.stderr
        assert "no space left on device" in result.stderr.lower()
        assert not Path("runs/first").exists()
    assert slurm.calls("sbatch") == []
    assert cli("submit", *ASKED, "--run", "runs/first").exit_code == 0


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (".", ".: holds files but is not a run folder; choose another --run"),
        ("", ".: holds files but is not a run folder"),
        (
            "/proc/x",
            "/proc/x: cannot be written: No such file or directory; free some space there, or choose",
        ),
        ("/dev/null/x", "/dev/null/x: cannot be written: Not a directory"),
    ],
)
def test_a_run_folder_that_cannot_be_is_refused_with_the_way_out(
    folder: str, words: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    result = cli("submit", *ASKED, "--run", folder)
    assert result.exit_code == 2, result.output
    assert f"error: {words}" in result.stderr
    assert slurm.calls("sbatch") == []


def test_a_packing_job_that_cannot_be_cancelled_is_named_and_keeps_its_folder(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch.refuses_after").write_text("1")
    slurm.refuse("scancel", "scancel: error: Unable to contact slurm controller (connect failure)\n")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "job 100 was accepted, and could not be cancelled: scancel: " in result.stderr
    assert "`scancel 100`" in result.stderr
    assert Path("runs/first/plan.json").exists()


def test_a_job_that_cannot_be_recorded_is_named(
    conversations: Path, cli: Cli, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(files: JobFiles, submission: Submission) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "x")

    monkeypatch.setattr(JobFiles, "record", full)
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "submissions.json: cannot be written: Disk quota exceeded" in result.stderr
    assert "`scancel 100 101`" in result.stderr
    assert Path("runs/first/plan.json").exists()


def test_without_slurm_the_way_out_is_named(
    conversations: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "sbatch is not on PATH" in result.stderr
    assert "gemfit run" in result.stderr
