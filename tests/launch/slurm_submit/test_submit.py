"""Submitting jobs, towards a Slurm that fits into a folder."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.records.job_files import JobFiles
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm, status_of

pytestmark = pytest.mark.usefixtures("slurm")


def test_submit_hands_over_one_script_with_all_options_in_it(submitted: RunDir, slurm: FakeSlurm) -> None:
    (call,) = slurm.calls("sbatch")
    script = JobFiles(submitted).script("train")
    assert call["arguments"] == ["--parsable", str(script)]
    assert f'#SBATCH --chdir="{Path.cwd()}"\n' in script.read_text()
    made = JobFiles(submitted).newest()
    assert made is not None
    assert (made.job, made.pack_job, made.nodes) == (100, None, 2)


def test_the_code_is_saved_in_the_run_folder(submitted: RunDir) -> None:
    for module in ("gemfit/train/loop/trainer.py", "gemfit_launch/slurm/node/job.py"):
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


def test_dry_run_leaves_nothing_behind(conversations: Path, cli: Cli, slurm: FakeSlurm) -> None:
    assert cli("submit", *ASKED, "--dry-run").exit_code == 0
    assert not Path("runs").exists()
    assert slurm.calls("sbatch") == []


def test_data_that_is_not_packed_gets_a_job_of_its_own_first(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.add_job(7, "RUNNING")
    result = cli("submit", *ASKED, "--run", "runs/first", "--after", "7")
    assert "packing: job 101" in result.output
    pack, train = (call["arguments"] for call in slurm.calls("sbatch"))
    assert pack[1:] == ["--dependency=afterok:7", "--kill-on-invalid-dep=yes", pack[-1]]
    assert train[1] == "--dependency=afterok:101"
    assert "gres" not in Path(pack[-1]).read_text()
    found = status_of(cli, RunDir(Path("runs/first")))
    assert found["state"] == "pending"


def test_nothing_in_the_environment_that_slurm_would_obey_reaches_it(
    conversations: Path, cli: Cli, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "SLURM_NTASKS", "SQUEUE_FORMAT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    monkeypatch.setenv("SLURM_CONF_SERVER", "controller:6817")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert "SBATCH_PARTITION, SLURM_JOB_ID, SLURM_NTASKS" in result.stderr
    environment = slurm.calls("sbatch")[0]["environment"]
    assert not [name for name in environment if commands.hidden_options({name: ""})]
    assert (environment["SLURM_CONF"], environment["HF_TOKEN"]) == ("/etc/there", "hf_secret")
    assert environment["SLURM_CONF_SERVER"] == "controller:6817"
    assert "SLURM_CONF" not in result.stderr
    assert "hf_secret" not in result.output
    assert not [
        path for path in Path("runs").rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()
    ]


def test_the_job_id_is_found_among_lines_of_a_wrapper(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    (slurm.folder / "banner").write_text("----\nWelcome, 3 messages\n2026\n----\n")
    slurm.set_job(100, "FAILED")
    assert cli("resume", submitted.root).exit_code == 0
    made = JobFiles(submitted).newest()
    assert made is not None
    assert made.job == 101
    assert status_of(cli, submitted)["state"] == "pending"


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("7\n", [7]),
        ("7;fake\n", [7]),
        ("7\r\n", [7]),
        ("x 1\n2\n  8;c\nbye\n", [8]),
        ("2025\n7\nYou have 2 jobs\n7\n", [2025, 7]),
        ("7;c\nbyes left:\n2026\n", [7]),
        ("Submitted batch job 7\n", []),
        ("\x1b[1m7\x1b[0m\n", []),
        ("", []),
    ],
)
def test_a_job_id_is_a_line_of_its_own_and_certain_with_a_cluster(answer: str, numbers: list[int]) -> None:
    assert commands.job_ids(answer) == numbers


@pytest.mark.parametrize("answer", ["2026\n101\n", "101\n2026\n", "7\n101\nwords\n3\n"])
def test_of_several_numbers_the_job_id_is_that_of_the_job_with_the_name(
    answer: str, submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    slurm.add_job(7, "RUNNING")
    slurm.set_job(100, "FAILED")
    (slurm.folder / "sbatch.answers").write_text(answer.replace("101", "102"))
    assert cli("resume", submitted.root).exit_code == 0
    made = JobFiles(submitted).newest()
    assert made is not None
    assert made.job == 102


def test_a_single_number_asks_slurm_nothing_more(submitted: RunDir, slurm: FakeSlurm) -> None:
    assert slurm.calls("squeue") == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "Slurm does not know this job"),
        ("FAILED", "has not succeeded (FAILED)"),
        ("COMPLETED", ""),
        ("RUNNING", ""),
    ],
)
def test_a_job_to_wait_for_has_to_be_one_that_can_succeed(
    state: str | None, words: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    if state is not None:
        slurm.add_job(7, state)
    result = cli("submit", *ASKED, "--run", "runs/first", "--after", "7")
    assert (result.exit_code == 0, words in result.stderr) == (not words, True)
    assert bool(slurm.calls("sbatch")) == (not words)


@pytest.mark.parametrize(
    ("line", "settings", "words"),
    [
        ("DefaultTime=00:03:00 MaxTime=UNLIMITED", [], "180 seconds (`time` is not set: DefaultTime of low)"),
        ("DefaultTime=NONE MaxTime=00:04:00", [], "240 seconds (MaxTime of low)"),
        ("DefaultTime=00:03:00 MaxTime=UNLIMITED", ["--site-set", "time=5"], "300 seconds (`time`)"),
        ("DefaultTime=00:03:00 MaxTime=UNLIMITED", ["--site-set", "time=1-0"], ""),
        *(
            ("DefaultTime=00:03:00 MaxTime=UNLIMITED", ["--site-set", f"time={none}"], "")
            for none in ("0", "00", "0:0", "00:00:00", "0-0", "-1", "infinite", "Unlimited")
        ),
        ("MaxTime=00:04:00", ["--site-set", "partition=none,low"], "240 seconds (MaxTime of low)"),
        ("GraceTime=soon MaxTime=00:04:00", [], ""),  # left to sbatch
    ],
)
def test_a_job_whose_signal_to_save_would_come_at_its_start_is_refused(
    line: str, settings: list[str], words: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "partitions").write_text(f"PartitionName=low Default=YES {line} State=UP\n")
    result = cli("submit", *ASKED, *settings, "--run", "runs/first")
    assert (result.exit_code == 0, words in result.stderr) == (not words, True)
    assert bool(slurm.calls("sbatch")) == (not words)


def test_without_data_nothing_is_submitted(cli: Cli, slurm: FakeSlurm) -> None:
    result = cli("submit", "debug/cpu-tiny", "--site", "site.yaml")
    assert (result.exit_code, "data.source is not set" in result.stderr) == (2, True)
    assert slurm.calls("sbatch") == []


def test_ranks_are_the_sites_business(cli: Cli) -> None:
    result = cli("plan", "debug/cpu-tiny", "--site", "site.yaml", "--nproc", "4")
    assert result.exit_code == 2
    assert "--nproc 4: a node of site site has 2 CPU ranks" in result.stderr
