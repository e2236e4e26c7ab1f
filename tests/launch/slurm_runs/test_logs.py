"""`gemfit logs` of runs that are Slurm jobs."""

from __future__ import annotations

import pytest

from gemfit.rundir import RunDir
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.conftest import Cli
from launch.fake_login import FakeSlurm

pytestmark = pytest.mark.usefixtures("slurm")


def test_logs_go_on_over_all_attempts(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    for attempt in (submitted.begin_attempt(), submitted.begin_attempt()):
        submitted.log(attempt).write_text(f"a{attempt}\nb{attempt}\n")
    slurm.set_job(100, "COMPLETED")
    headlines = [f"==> attempt {number}: {submitted.log(number)} <==" for number in (1, 2)]
    whole = [headlines[0], "a1", "b1", headlines[1], "a2", "b2"]
    assert cli("logs", submitted.root).output.splitlines() == whole
    assert cli("logs", submitted.root, "--follow").output.splitlines() == whole
    assert cli("logs", submitted.root, "-n", 1).output.splitlines() == [
        headlines[0],
        "b1",
        headlines[1],
        "b2",
    ]
    assert cli("logs", submitted.root, "--attempt", 2).output.splitlines() == whole[3:]
    assert "has had 2 attempts" in cli("logs", submitted.root, "--attempt", 3).stderr
    (submitted.logs / "attempt-2.node-1.log").write_text("on the other machine\n")
    other = cli("logs", submitted.root, "--attempt", 2, "--node", 1).output
    assert other.splitlines()[1:] == ["on the other machine"]
    assert "there is no such log" in cli("logs", submitted.root, "--node", 1).stderr


def test_logs_of_batch_scripts_are_shown(submitted: RunDir, cli: Cli) -> None:
    JobFiles(submitted).log("train", 100).write_text("attempt 1 of job 100\n")
    assert "attempt 1 of job 100\n" in cli("logs", submitted.root, "--job").output


@pytest.mark.parametrize("options", [(), ("--follow",), ("-n", 3)])
def test_logs_point_to_the_job_where_no_attempt_has_begun(
    options: tuple[object, ...], submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "FAILED")
    result = cli("logs", submitted.root, *options)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no attempt has begun; the log of its job: gemfit logs {submitted.root} --job" in result.stderr


def test_a_log_that_ends_within_a_line_gets_a_newline(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    JobFiles(submitted).log("train", 100).write_text("one\ntwo")
    submitted.begin_attempt()
    submitted.log(1).write_text("three")
    assert cli("logs", submitted.root, "--job").stdout.endswith("one\ntwo\n")
    slurm.set_job(100, "COMPLETED")
    assert cli("logs", submitted.root).stdout.endswith("three\n")
    assert cli("logs", submitted.root, "--follow").stdout.endswith("three\n")
