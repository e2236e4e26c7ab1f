"""Sweeps: one submitted run for each combination of settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize("folder", [".", "sub/.."])
def test_a_sweep_in_the_current_folder_is_named_after_it(
    folder: str, conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    result = cli("submit", *ASKED, "--run", folder, "--sweep", "seed=1,2", "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"{Path.cwd()}-seed=1" in result.output


def test_a_sweep_that_is_refused_half_way_prints_what_was_submitted(
    conversations: Path, cli: Cli, slurm: FakeSlurm
) -> None:
    (slurm.folder / "sbatch.refuses_after").write_text("4")
    result = cli("submit", *ASKED, "--run", "runs/lr", "--sweep", "seed=1,2,3", "--json")
    assert result.exit_code == 2
    assert [one["run"] for one in json.loads(result.stdout)] == ["runs/lr-seed=1", "runs/lr-seed=2"]
    assert "runs/lr-seed=3: sbatch:" in result.stderr
    assert "2 of 3 runs are submitted" in result.stderr


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
