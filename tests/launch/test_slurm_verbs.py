"""Submitting jobs and sweeps of them, towards a Slurm that fits into a folder."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.records.job_files import JobFiles, Submission
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


def test_the_job_id_is_found_among_lines_of_a_wrapper(submitted: RunDir, cli: Cli, slurm: FakeSlurm) -> None:
    (slurm.folder / "banner").write_text("----\nWelcome, 3 messages\n2026\n----\n")
    slurm.set_job(100, "FAILED")
    assert cli("resume", submitted.root).exit_code == 0
    made = JobFiles(submitted).newest()
    assert made is not None
    assert made.job == 101
    assert status_of(cli, submitted)["state"] == "pending"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("7\n", 7),
        ("7;fake\n", 7),
        ("7\r\n", 7),
        ("x 1\n2\n  8;c\nbye\n", 8),
        ("2025\n7\nYou have 2 jobs\n", 7),
        ("7;c\nbyes left:\n2026\n", 7),
        ("Submitted batch job 7\n", None),
        ("\x1b[1m7\x1b[0m\n", None),
        ("", None),
    ],
)
def test_the_job_id_is_the_last_line_that_is_one(answer: str, number: int | None) -> None:
    assert commands.job_id(answer) == number


def test_a_run_folder_stays_where_sbatch_accepted_the_job_without_an_id(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch.answers").write_text("Submitted. Have a nice day.\n")
    result = cli("submit", *ASKED, "--run", "runs/first")
    assert result.exit_code == 2
    assert "printed no job id but: Submitted. Have a nice day." in result.stderr
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


@pytest.mark.parametrize("folder", [".", "sub/.."])
def test_a_sweep_in_the_current_folder_is_named_after_it(
    folder: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    result = cli("submit", *ASKED, "--run", folder, "--sweep", "seed=1,2", "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"{Path.cwd()}-seed=1" in result.output


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


def test_a_sweep_that_is_refused_half_way_prints_what_was_submitted(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch.refuses_after").write_text("4")
    result = cli("submit", *ASKED, "--run", "runs/lr", "--sweep", "seed=1,2,3", "--json")
    assert result.exit_code == 2
    assert [one["run"] for one in json.loads(result.stdout)] == ["runs/lr-seed=1", "runs/lr-seed=2"]
    assert "runs/lr-seed=3: sbatch:" in result.stderr
    assert "2 of 3 runs are submitted" in result.stderr


def test_without_slurm_the_way_out_is_named(
    conversations: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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


def test_a_sweep_is_one_run_for_each_combination_and_packs_once(
    conversations: Path, cli: Cli, slurm: FakeSlurm
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


def test_no_more_runs_of_a_sweep_train_at_once_than_asked_for(
    submitted: RunDir, cli: Cli, slurm: FakeSlurm
) -> None:
    sweep = ["--sweep", "seed=1,2,3,4,5", "--max-parallel", 2]
    assert cli("submit", *ASKED, "--run", "runs/try", *sweep).exit_code == 0
    waits = [call["arguments"][1:-1] for call in slurm.calls("sbatch")[1:]]
    earlier = [[f"--dependency=afterany:{job}", "--kill-on-invalid-dep=yes"] for job in (101, 102, 103)]
    assert waits == [[], [], *earlier]


def test_a_slot_is_waited_for_in_addition_to_the_pack(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    sweep = ["--sweep", "seed=1,2", "--max-parallel", 1, "--json"]
    first, second = json.loads(cli("submit", *ASKED, "--run", "runs/try", *sweep).stdout)
    *_, pack, train = [call["arguments"][1] for call in slurm.calls("sbatch")]
    assert pack == f"--dependency=afterok:{first['pack_job']}"
    assert train == f"--dependency=afterok:{second['pack_job']},afterany:{first['job']}"


def test_a_bound_on_parallel_runs_without_a_sweep_is_refused(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    result = cli("submit", *ASKED, "--max-parallel", 2)
    assert (result.exit_code, "--max-parallel 2: no effect" in result.stderr) == (2, True)
    assert slurm.calls("sbatch") == []


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
    sweep: str, words: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    result = cli("submit", *ASKED, "--sweep", sweep)
    assert (result.exit_code, words in result.stderr) == (2, True)
    assert slurm.calls("sbatch") == []


def test_a_sweep_that_an_option_overrides_is_refused(conversations: Path, cli: Cli) -> None:
    result = cli("submit", *ASKED, "--seed", "3", "--sweep", "seed=1,2")
    assert "would train the same; leave one of them out, or the option that overrides" in result.stderr
