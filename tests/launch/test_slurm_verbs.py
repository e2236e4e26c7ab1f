"""The verbs of Slurm jobs, towards a Slurm that fits into a folder."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from gemfit.manifest import PackManifest
from gemfit.packing import make_pack_job
from gemfit.records import Verdict
from gemfit.rundir import RunDir
from gemfit_launch.request import Request
from gemfit_launch.slurm import client
from gemfit_launch.slurm.jobfiles import JobFiles

Cli = Callable[..., Result]
FAKE = Path(__file__).with_name("fake_slurm.py")
SITE = "partition: low\ngpus_per_node: 0\nranks_per_node: 2\n"


@dataclass(frozen=True)
class FakeSlurm:
    """What the commands were asked, and the queue that they answer from."""

    folder: Path

    def calls(self, command: str) -> list[dict[str, Any]]:
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [call for call in map(json.loads, lines) if call["command"] == command]

    def set_job(self, number: int, state: str, reason: str = "None", **more: str) -> None:
        path = self.folder / "queue.json"
        queue = json.loads(path.read_text())
        queue[str(number)] |= {"state": state, "reason": reason, **more}
        path.write_text(json.dumps(queue))

    def forget_all(self) -> None:
        (self.folder / "queue.json").write_text("{}")

    def refuse(self, command: str, words: str) -> None:
        (self.folder / f"{command}.refuses").write_text(words)


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A login node, with the working folder in a folder of the test."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for command in ("sbatch", "squeue", "scancel"):
        path = folder / command
        path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(FAKE), command])} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text(SITE)
    return FakeSlurm(folder)


@pytest.fixture
def submitted(talks: Path, packed: Callable[..., PackManifest], cli: Cli, slurm: FakeSlurm) -> RunDir:
    """A run on 2 nodes, packed before, that waits as job 100."""
    packed(make_pack_job(Request(name="debug/cpu-tiny", data=str(talks)).recipe()))
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 0, result.output
    return RunDir(Path("runs/first"))


ASKED = ["debug/cpu-tiny", "--data", "talks.jsonl", "--site", "site.yaml", "--nodes", "2"]


def status_of(cli: Cli, run: RunDir) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(cli("status", run.root, "--json").stdout)[0]
    return answer


def test_submit_hands_over_one_script_with_all_options_in_it(submitted: RunDir, slurm: FakeSlurm) -> None:
    (call,) = slurm.calls("sbatch")
    script = JobFiles(submitted).script("train")
    assert call["arguments"] == ["--parsable", str(script)]
    assert f'#SBATCH --chdir="{Path.cwd()}"\n' in script.read_text()
    made = JobFiles(submitted).newest()
    assert made is not None
    assert (made.job, made.pack_job, made.nodes) == (100, None, 2)


def test_the_code_is_kept_in_the_run_folder(submitted: RunDir) -> None:
    for module in ("gemfit/train/trainer.py", "gemfit_launch/slurm/job.py"):
        assert (submitted.root / "code" / module).is_file()


def test_plan_and_dry_run_print_the_script_that_submit_hands_over(submitted: RunDir, cli: Cli) -> None:
    sent = JobFiles(submitted).script("train").read_text()
    for verb in (["plan"], ["submit", "--dry-run"]):
        shown = cli(*verb, *ASKED, "--run", "runs/first")
        assert shown.exit_code == 0, shown.output
        assert f"train.sbatch\n{sent}" in shown.output


def test_the_command_that_plan_shows_submits_the_same(submitted: RunDir, cli: Cli) -> None:
    shown = cli("plan", *ASKED, "--site-set", "time=1-0", "--run", "runs/second").output
    (line,) = [line for line in shown.splitlines() if line.startswith("  gemfit submit")]
    assert cli(*shlex.split(line)[1:]).exit_code == 0
    sent = JobFiles(RunDir(Path("runs/second"))).script("train").read_text()
    assert '#SBATCH --time="1-0"' in sent
    assert f"train.sbatch\n{sent}" in shown


def test_dry_run_leaves_nothing_behind(talks: Path, cli: Cli, slurm: FakeSlurm) -> None:
    assert cli("submit", *ASKED, "--dry-run").exit_code == 0
    assert not Path("runs").exists()
    assert slurm.calls("sbatch") == []


def test_data_that_is_not_packed_gets_a_job_of_its_own_first(talks: Path, cli: Cli, slurm: FakeSlurm) -> None:
    result = cli("submit", *ASKED, "--run", "runs/first", "--after", "7")
    assert "packing: job 100" in result.output
    pack, train = (call["arguments"] for call in slurm.calls("sbatch"))
    assert pack[1:] == ["--dependency=afterok:7", "--kill-on-invalid-dep=yes", pack[-1]]
    assert train[1] == "--dependency=afterok:100"
    assert "gres" not in Path(pack[-1]).read_text()
    found = status_of(cli, RunDir(Path("runs/first")))
    assert found["state"] == "pending"


def test_nothing_in_the_environment_that_slurm_would_obey_reaches_it(
    talks: Path, cli: Cli, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "SLURM_NTASKS", "SQUEUE_FORMAT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert "SBATCH_PARTITION, SLURM_JOB_ID, SLURM_NTASKS" in result.stderr
    environment = slurm.calls("sbatch")[0]["environment"]
    assert not [name for name in environment if client.hidden_options({name: ""})]
    assert (environment["SLURM_CONF"], environment["HF_TOKEN"]) == ("/etc/there", "hf_secret")
    assert "hf_secret" not in result.output
    assert not [
        path for path in Path("runs").rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()
    ]


def test_a_refusal_of_slurm_is_told_and_leaves_no_run_folder(talks: Path, cli: Cli, slurm: FakeSlurm) -> None:
    slurm.refuse("sbatch", "sbatch: error: invalid partition specified: low\n")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "invalid partition specified: low" in result.stderr
    assert not Path("runs/first").exists()


def test_where_only_the_training_is_refused_the_packing_is_cancelled(
    talks: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch.refuses_after").write_text("1")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert (result.exit_code, "accounting policy" in result.stderr) == (2, True)
    assert [call["arguments"] for call in slurm.calls("scancel")] == [["100"]]


def test_without_slurm_the_way_out_is_named(
    talks: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "sbatch is not on PATH" in result.stderr
    assert "gemfit run" in result.stderr


def test_without_data_nothing_is_submitted(cli: Cli, slurm: FakeSlurm) -> None:
    result = cli("submit", "debug/cpu-tiny", "--site", "site.yaml")
    assert (result.exit_code, "data.source is not set" in result.stderr) == (2, True)
    assert slurm.calls("sbatch") == []


def test_ranks_are_the_sites_business(cli: Cli) -> None:
    result = cli("plan", "debug/cpu-tiny", "--site", "site.yaml", "--nproc", "4")
    assert result.exit_code == 2
    assert "--nproc 4: a node of site site has 2 CPU ranks" in result.stderr


@pytest.mark.parametrize(
    ("reason", "start", "words"),
    [
        ("Priority", "N/A", "Priority: others come first"),
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
        ("COMPLETED", "completed", None, "completed"),
        ("COMPLETED", "stopped", None, "stopped"),
        ("FAILED", "failed", None, "failed"),
        ("CANCELLED", None, None, "cancelled"),
        ("NODE_FAIL", None, None, "crashed"),
        (None, "completed", None, "completed"),
        (None, None, None, "crashed"),
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
    submitted.begin_attempt()
    if verdict is not None:
        submitted.write_verdict(Verdict(outcome=verdict, attempt=1, step=3, reason="as it is"))
    if stop is not None:
        submitted.stop_file.write_text(f"{stop}\n")
    if job is None:
        slurm.forget_all()
    else:
        slurm.set_job(100, job)
    assert status_of(cli, submitted)["state"] == state


def test_another_job_with_the_same_id_is_not_the_runs(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    slurm.set_job(100, "RUNNING", name="of somebody else")
    assert status_of(cli, submitted)["state"] == "new"
    assert "has no job that waits or runs" in cli("cancel", submitted.root).output
    assert slurm.calls("scancel") == []


def test_a_pack_that_failed_is_why_the_run_failed(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    submitted.write_verdict(Verdict(outcome="fatal", attempt=0, step=0, reason="talks.jsonl:3: is not JSON"))
    slurm.set_job(100, "CANCELLED")
    found = status_of(cli, submitted)
    assert (found["state"], found["reason"]) == ("fatal", "talks.jsonl:3: is not JSON")


def test_where_slurm_is_silent_the_state_is_unknown_and_its_words_are_shown(
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
    assert "was waiting, and is cancelled" in cli("stop", submitted.root).output
    assert [call["arguments"] for call in slurm.calls("scancel")] == [["100"]]
    assert "is not running" in cli("stop", submitted.root).output


def test_cancel_ends_the_training_before_the_packing_it_waits_for(
    talks: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    cli("submit", *ASKED, "--run", "runs/first")
    assert cli("cancel", "runs/first").exit_code == 0
    assert [call["arguments"] for call in slurm.calls("scancel")] == [["101"], ["100"]]
    assert "has no job that waits or runs" in cli("cancel", "runs/first").output


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


def test_a_complete_run_is_not_resumed(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    steps = submitted.plan().steps.total
    submitted.write_verdict(Verdict(outcome="completed", attempt=1, step=steps))
    slurm.forget_all()
    assert "there is nothing to resume" in cli("resume", submitted.root).stderr


def test_a_run_of_this_machine_needs_a_site_to_go_on_as_a_job(submitted: RunDir, cli: Cli) -> None:
    plan = submitted.plan().model_copy(update={"site": None})
    local = RunDir.create(Path("runs/local"), plan)
    assert "give --site SITE" in cli("resume", local.root).stderr
    assert "was never submitted to Slurm" in cli("cancel", local.root).stderr
    assert cli("resume", local.root, "--site", "site.yaml").exit_code == 0
    assert (JobFiles(local).submissions()[0].site, local.plan().topology.nodes) == ("site", 2)


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


def test_the_batch_shells_words_are_logs_too(submitted: RunDir, cli: Cli) -> None:
    JobFiles(submitted).log("train", 100).write_text("attempt 1 of job 100\n")
    assert "attempt 1 of job 100\n" in cli("logs", submitted.root, "--job").output


def test_a_sweep_is_one_run_for_each_combination_and_packs_once(
    talks: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    sweep = ["--sweep", "seed=1,2", "--sweep", "optim.betas=[0.9,0.95],[0.9,0.99]"]
    made = json.loads(cli("submit", *ASKED, "--run", "runs/try", *sweep, "--json").stdout)
    names = [f"try-seed={seed}-betas=_{betas}_" for seed in (1, 2) for betas in ("0.9_0.95", "0.9_0.99")]
    assert [Path(one["run"]).name for one in made] == names
    recipes = [RunDir(Path(one["run"])).plan().recipe for one in made]
    assert [(recipe.seed, recipe.optim.betas[1]) for recipe in recipes] == [
        (1, 0.95),
        (1, 0.99),
        (2, 0.95),
        (2, 0.99),
    ]
    waits = [call["arguments"][1] for call in slurm.calls("sbatch")]
    packs = [one["pack_job"] for one in made]
    assert waits[::2] == [slurm.calls("sbatch")[0]["arguments"][1]] + 3 * [f"--dependency=afterok:{packs[0]}"]
    assert waits[1::2] == [f"--dependency=afterok:{pack}" for pack in packs]


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("seed=1,1", "would train the same"),
        ("optim.learning_rate=1e-4,0.0001", "would train the same"),
        ("seed", "write it as key=value,value"),
        ("sed=1,2", "did you mean 'seed'"),
    ],
)
def test_a_sweep_that_makes_no_sense_submits_nothing(
    sweep: str, words: str, talks: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    result = cli("submit", *ASKED, "--sweep", sweep)
    assert (result.exit_code, words in result.stderr) == (2, True)
    assert slurm.calls("sbatch") == []


def test_a_sweep_that_an_option_overrides_is_refused(talks: Path, cli: Cli) -> None:
    result = cli("submit", *ASKED, "--seed", "3", "--sweep", "seed=1,2")
    assert "would train the same; leave one of them out, or the option that overrides" in result.stderr
