"""`gemfit resume` of runs that are Slurm jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm

pytestmark = pytest.mark.usefixtures("slurm")


def test_a_run_that_is_queued_is_not_resumed(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    result = cli("resume", submitted.root)
    assert result.exit_code == 2
    assert "job 100 is pending; end it first" in result.stderr
    assert len(slurm.calls("sbatch")) == 1


def test_resume_on_other_nodes_changes_the_plan_and_the_script(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    submitted.begin_attempt()
    submitted.request_stop()
    slurm.set_job(100, "COMPLETED")
    result = cli("resume", submitted.root, "--nodes", "4")
    assert result.exit_code == 0, result.output
    assert "nodes: was 2, is 4" in result.output
    assert submitted.plan().topology.nodes == 4
    assert '#SBATCH --nodes="4"' in JobFiles(submitted).script("train").read_text()
    assert [made.job for made in JobFiles(submitted).submissions()] == [100, 101]
    assert not submitted.stop_file.exists(), "else the new job would end at once"


def test_resume_takes_the_site_as_its_file_is_now_with_the_settings_of_the_submission(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    assert cli("submit", *ASKED, "--site-set", "time=2:00:00", "--run", "runs/first").exit_code == 0
    run = RunDir(Path("runs/first"))
    slurm.set_job(100, "FAILED")
    slurm.set_job(101, "FAILED")
    site = Path("site.yaml")
    site.write_text(site.read_text() + "setup: [source /new/env/bin/activate]\n")
    result = cli("resume", run.root)
    assert result.exit_code == 0, result.output
    assert "site.setup: was [], is ['source /new/env/bin/activate']" in result.output
    assert "site.time" not in result.output
    script = JobFiles(run).script("train").read_text()
    assert "'source /new/env/bin/activate'" in script
    assert '#SBATCH --time="2:00:00"' in script


def test_resume_changes_settings_of_the_site_and_keeps_those_before(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    for number, setting in ((100, "time=2:00:00"), (101, "max_restarts=9")):
        slurm.set_job(number, "FAILED")
        assert cli("resume", submitted.root, "--site-set", setting).exit_code == 0
    script = JobFiles(submitted).script("train").read_text()
    assert ('#SBATCH --time="2:00:00"' in script, "MAX_RESTARTS=9\n" in script) == (True, True)


def test_resume_of_a_run_whose_site_is_gone_asks_for_one(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "FAILED")
    Path("site.yaml").rename("moved.yaml")
    refused = cli("resume", submitted.root)
    assert refused.exit_code == 2
    assert "site.yaml: there is no such file" in refused.stderr
    assert "the last job of this run was submitted with it; give --site SITE" in refused.stderr
    assert cli("resume", submitted.root, "--site", "moved.yaml").exit_code == 0


def test_resume_refuses_another_training_unless_it_is_allowed(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "FAILED")
    change = ["--set", "optim.learning_rate=1e-5"]
    refused = cli("resume", submitted.root, *change)
    assert (refused.exit_code, "--allow-changed optim.learning_rate" in refused.stderr) == (2, True)
    assert cli("resume", submitted.root, *change, "--allow-changed", "optim.learning_rate").exit_code == 0
    made = JobFiles(submitted).newest()
    assert made is not None
    assert made.allowed_changes == ("optim.learning_rate",)


def test_resume_says_what_becomes_of_the_learning_rate(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    slurm.set_job(100, "FAILED")
    submitted.checkpoint(1).mkdir(parents=True)
    (submitted.checkpoint(1) / "manifest.json").touch()
    change = ["--set", "optim.learning_rate=1e-5", "--allow-changed", "optim.learning_rate"]
    assert "learning rate: step 1 took 0, step 2 takes" in cli("resume", submitted.root, *change).output


def test_a_complete_run_is_not_resumed(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    steps = submitted.plan().steps.total
    submitted.write_verdict(Verdict(outcome=AttemptOutcome.COMPLETED, attempt=1, step=steps))
    slurm.forget_all()
    assert "there is nothing to resume" in cli("resume", submitted.root).stderr


@pytest.mark.parametrize("option", [("--nproc", 2), ("--gpus", 2), ("--device", "cpu"), ("--stop-at", 5)])
def test_options_of_a_local_run_are_refused_by_name_for_a_job(
    option: tuple[object, ...], submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "FAILED")
    result = cli("resume", submitted.root, *option)
    assert result.exit_code == 2
    assert f"{option[0]}: no effect" in result.stderr
    assert len(JobFiles(submitted).submissions()) == 1


def test_a_run_that_was_a_job_is_resumed_here_on_request(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.set_job(100, "FAILED")
    result = cli("resume", submitted.root, "--here", "--nproc", 1, "--device", "cpu", "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"gemfit resume {submitted.root} --here --nproc 1 --device cpu" in result.output
    assert cli("resume", submitted.root, "--here", "--site", "site.yaml").exit_code == 2


def test_a_site_makes_a_job_of_a_run_of_this_machine(submitted: RunDir, cli: Cli) -> None:
    plan = submitted.plan().model_copy(update={"site": None})
    local = RunDir.create(Path("runs/local"), plan)
    assert "was never submitted to Slurm" in cli("cancel", local.root).stderr
    assert cli("resume", local.root, "--site", "site.yaml").exit_code == 0
    site = str(Path("site.yaml").resolve())
    assert (JobFiles(local).submissions()[0].site, local.plan().topology.nodes) == (site, 2)
