"""Runs that are Slurm jobs: status, stop, cancel, resume, logs, towards a Slurm that fits into a folder."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit_launch.slurm.records.job_attempts import AttemptFiles, AttemptStart
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm, status_of

pytestmark = pytest.mark.usefixtures("slurm")


def begin_in_job(run: RunDir, job: int) -> None:
    """Begin an attempt as the batch script of ``job`` does."""
    files = AttemptFiles(run, run.begin_attempt())
    start = AttemptStart(attempt=files.attempt, job=str(job), nodes=("n1", "n2"), step=0, time=time.time())
    files.write(files.start, start)


def check_status(cli: Cli, run: RunDir, state: str, words: str) -> None:
    found = status_of(cli, run)
    assert (found["state"], words in found["reason"]) == (state, True)


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


def test_a_pack_that_failed_is_why_the_run_failed(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    submitted.write_verdict(
        Verdict(outcome=AttemptOutcome.FATAL, attempt=0, step=0, reason="conversations.jsonl:3: is not JSON")
    )
    slurm.set_job(100, "CANCELLED")
    found = status_of(cli, submitted)
    assert (found["state"], found["reason"]) == (AttemptOutcome.FATAL, "conversations.jsonl:3: is not JSON")


def test_where_slurm_does_not_answer_the_state_is_unknown_with_its_message(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    found = status_of(cli, submitted)
    assert found["state"] == "unknown"
    assert "Unable to contact slurm controller" in found["waits_for"]


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
