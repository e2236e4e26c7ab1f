"""``gemfit run``, from the recipe to the exit code, with a small program in the place of training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.pack_job import make_pack_job, pack_folder
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.request import Request

Cli = Callable[..., Result]
TRAINING = Path(__file__).with_name("fake_training.py")
# 90 rows for 2 epochs are 12 steps of 16.
STEPS = 12


@pytest.fixture
def data(
    conversations: Path, packed: Callable[..., PackManifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """Packed conversations, in a working folder of their own."""
    packed(make_pack_job(Request(name="debug/cpu-tiny", data=str(conversations)).recipe()))
    monkeypatch.setattr(
        "gemfit_launch.planning.plan.command", lambda: (sys.executable, str(TRAINING), "{run_dir}")
    )
    for verb in ("run", "resume"):
        monkeypatch.setattr(f"gemfit_launch.verbs.{verb}.require_train_extra", lambda verb: None)
    monkeypatch.chdir(tmp_path)
    return conversations


def train(cli: Cli, data: Path, *more: object) -> Result:
    return cli("run", "debug/cpu-tiny", "--data", data, "--device", "cpu", "--nproc", 2, *more)


def test_a_run_prints_plain_lines_and_exits_0(data: Path, cli: Cli) -> None:
    result = train(cli, data, "--run", "runs/a")
    assert result.exit_code == 0
    assert f"step {STEPS}/{STEPS}  loss 1.8000  1,000 tokens/s" in result.output
    assert f"evaluation at step {STEPS}: loss 2.0000, perplexity 7.40, token accuracy 50.0%" in result.output
    assert "export with: gemfit export runs/a" in result.output


def test_a_run_without_a_name_gets_one_from_its_recipe(data: Path, cli: Cli) -> None:
    assert train(cli, data).exit_code == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("debug-cpu-tiny-")


def test_a_stopped_run_exits_75_with_the_command_that_resumes_it(data: Path, cli: Cli) -> None:
    stopped = train(cli, data, "--run", "runs/a", "--stop-at", 5)
    assert stopped.exit_code == 75
    assert "stopped and saved at step 5\nresume with: gemfit resume runs/a\n" in stopped.output
    resumed = cli("resume", "runs/a")
    assert resumed.exit_code == 0
    assert RunDir(Path("runs/a")).verdict() == Verdict(
        outcome=AttemptOutcome.COMPLETED, attempt=2, step=STEPS
    )


def test_a_crash_exits_1_and_shows_the_end_of_the_log_and_where_it_is(
    data: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CRASH_AT", "3")
    result = train(cli, data, "--run", "runs/a")
    assert result.exit_code == 1
    assert "  | RuntimeError: the fake crash" in result.stderr
    assert "the whole log: runs/a/logs/attempt-1.log" in result.stderr
    assert "resume with: gemfit resume runs/a" in result.stderr


def test_a_mistake_that_only_training_finds_exits_2_without_the_log(
    data: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FATAL", "the pack was made with another tokenizer; pack again")
    result = train(cli, data, "--run", "runs/a")
    assert result.exit_code == 2
    assert "error: the pack was made with another tokenizer; pack again\n" in result.stderr
    assert "  | " not in result.stderr


def test_a_manifest_in_the_working_folder_is_not_taken_for_a_pack(data: Path, cli: Cli) -> None:
    Path("manifest.json").write_text("{}")
    result = cli("run", "debug/cpu-tiny", "--nproc", 1, "--device", "cpu")
    assert result.exit_code == 2
    assert "pass --data FILE.jsonl" in result.stderr


def test_a_folder_in_use_is_refused_before_anything_is_packed(data: Path, cli: Cli) -> None:
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/precious").touch()
    result = train(cli, data, "--run", "runs/a", "--set", "data.seq_len=256")
    assert result.exit_code == 2
    assert "runs/a: holds files but is not a run folder; choose another --run" in result.stderr
    assert len(list(pack_folder("x").parent.iterdir())) == 1


def test_a_dry_run_shows_and_does_nothing(data: Path, cli: Cli) -> None:
    result = train(cli, data, "--run", "runs/a", "--dry-run")
    assert result.exit_code == 0
    assert "accelerate.yaml" in result.output
    assert "--run runs/a" in result.output
    assert not Path("runs").exists()


def test_a_completed_run_has_nothing_to_resume(data: Path, cli: Cli) -> None:
    train(cli, data, "--run", "runs/a")
    result = cli("resume", "runs/a")
    assert result.exit_code == 2
    assert "is complete (12 steps); there is nothing to resume" in result.stderr


def test_a_resume_builds_a_lost_pack_again_where_the_plan_expects_it(
    data: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 5)
    folder = Path(RunDir(Path("runs/a")).plan().pack.folder)
    moved = folder.rename(folder.with_name("moved"))

    def build(module: str, arguments: list[str]) -> ExitCode:
        assert (module, Path(arguments[-1])) == ("gemfit.data", folder)
        moved.rename(folder)
        return ExitCode.DONE

    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.run_module", build)
    monkeypatch.setattr("gemfit_launch.runs.ensure_pack.require_train_extra", lambda verb: None)
    monkeypatch.setenv("GEMFIT_CACHE", "/another/cache")
    assert cli("resume", "runs/a").exit_code == 0
    assert folder.is_dir()


def test_a_resume_refuses_data_that_has_changed_since(data: Path, cli: Cli) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 5)
    plan = RunDir(Path("runs/a")).plan()
    Path(plan.pack.folder).rename("lost")
    data.write_text(data.read_text() * 2)
    result = cli("resume", "runs/a")
    assert result.exit_code == 2
    assert "has changed since; restore the old data" in result.stderr


def test_a_run_goes_on_under_another_strategy_on_other_ranks_and_keeps_the_old_plan(
    data: Path, cli: Cli
) -> None:
    train(cli, data, "--strategy", "fsdp2", "--run", "runs/a", "--stop-at", 5)
    run, old = RunDir(Path("runs/a")), RunDir(Path("runs/a")).plan()
    data.unlink()  # the rows are packed: the conversations are not read again
    result = cli("resume", "runs/a", "--nproc", 3, "--strategy", "zero3", "--offload")
    assert result.exit_code == 0, result.output
    new = run.plan()
    assert (new.recipe.strategy.label, new.topology.world_size) == ("zero3+offload", 3)
    assert (new.training_identity(), new.steps, new.pack) == (old.training_identity(), old.steps, old.pack)
    assert "strategy: was fsdp2, is zero3+offload\n" in result.output
    assert "strategy.stage" not in result.output
    assert "ranks: was 2, is 3\n" in result.output
    assert Plan.read(run.earlier_plan(1)) == old
    assert run.deepspeed_file.is_file()
    assert "num_processes: 3" in run.accelerate_file.read_text()
    assert cli("resume", "runs/a", "--strategy", "ddp").exit_code == 2, "it is complete"


def test_a_strategy_alone_keeps_the_ranks_and_single_takes_one(data: Path, cli: Cli) -> None:
    train(cli, data, "--strategy", "zero3", "--run", "runs/a", "--stop-at", 3)
    run = RunDir(Path("runs/a"))
    assert cli("resume", "runs/a", "--strategy", "zero1", "--stop-at", 6).exit_code == 75
    assert (run.plan().recipe.strategy.label, run.plan().topology.world_size) == ("zero1", 2)
    assert cli("resume", "runs/a", "--strategy", "single", "--stop-at", 9).exit_code == 75
    assert (run.plan().recipe.strategy.label, run.plan().topology.world_size) == ("single", 1)
    assert not run.deepspeed_file.exists()
    assert [run.earlier_plan(n).exists() for n in (1, 2, 3)] == [True, True, False]


def test_a_resume_without_options_keeps_the_plan(data: Path, cli: Cli) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 5)
    before = RunDir(Path("runs/a")).plan_file.read_bytes()
    result = cli("resume", "runs/a")
    assert ": was " not in result.output
    assert RunDir(Path("runs/a")).plan_file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (("--seed", 1), "seed: was 42, is 1"),
        (("--set", "optim.learning_rate=1e-5"), "optim.learning_rate: was 0.002, is 1e-05"),
        (("--set", "batch.global_batch_size=8"), "batch.global_batch_size: was 16, is 8"),
        (("--set", "length.num_epochs=3", "--allow-changed", "seed"), "length.num_epochs: was 2.0, is 3.0"),
        (("--set", "data.loss_on=assistant"), "data.loss_on: was all, is assistant"),
    ],
)
def test_a_resume_that_would_train_something_else_is_refused_and_changes_nothing(
    options: tuple[object, ...], printed: str, data: Path, cli: Cli
) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 5)
    run = RunDir(Path("runs/a"))
    before = run.plan_file.read_bytes()
    result = cli("resume", "runs/a", *options)
    assert result.exit_code == 2
    assert printed in result.stderr
    assert (run.plan_file.read_bytes(), run.attempt) == (before, 1)


def test_an_allowed_change_is_passed_on_and_stays_allowed(data: Path, cli: Cli) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 3)
    run = RunDir(Path("runs/a"))
    change = ("--set", "optim.learning_rate=1e-5", "--allow-changed", "optim.learning_rate")
    assert cli("resume", "runs/a", *change, "--stop-at", 6).exit_code == 75
    assert run.plan().recipe.optim.learning_rate == 1e-5
    assert "arguments: --stop-at 6 --allow-changed optim.learning_rate\n" in run.log(2).read_text()
    # The second attempt may have ended before it saved, so the third meets the old checkpoint.
    assert cli("resume", "runs/a").exit_code == 0
    assert "arguments: --allow-changed optim.learning_rate\n" in run.log(3).read_text()


def test_a_completed_run_can_be_made_longer_where_that_is_allowed(data: Path, cli: Cli) -> None:
    train(cli, data, "--run", "runs/a")
    longer = ("--set", "length.num_epochs=3", "--allow-changed", "length")
    result = cli("resume", "runs/a", *longer)
    assert result.exit_code == 0, result.output
    verdict = RunDir(Path("runs/a")).verdict()
    assert verdict is not None
    assert verdict.step == 17


def test_an_unknown_key_to_allow_is_refused(data: Path, cli: Cli) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 3)
    result = cli("resume", "runs/a", "--allow-changed", "optim.learningrate")
    assert result.exit_code == 2
    assert "did you mean 'optim.learning_rate'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "Missing argument 'RECIPE'"),
        (("run", "debug/cpu-tiny", "--allow-changed", "seed"), "No such option"),
        (("run", "debug/cpu-tiny", "--data", "nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
        (("run", "debug/cpu-tiny"), "pass --data FILE.jsonl"),
        (("resume", "nowhere"), "nowhere: is not a run folder"),
    ],
)
def test_mistakes_in_the_call_exit_2(arguments: tuple[str, ...], message: str, data: Path, cli: Cli) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option", [("--nodes", 2), ("--after", 7), ("--site-set", "time=1:00:00"), ("--json",)]
)
def test_options_of_a_job_are_refused_by_name_for_a_local_run(
    option: tuple[object, ...], data: Path, cli: Cli
) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 3)
    result = cli("resume", "runs/a", *option)
    assert result.exit_code == 2
    assert f"{option[0]}: no effect" in result.stderr
    assert RunDir(Path("runs/a")).attempt == 1


def test_a_dry_resume_prints_its_command_and_starts_nothing(data: Path, cli: Cli) -> None:
    train(cli, data, "--run", "runs/a", "--stop-at", 3)
    result = cli("resume", "runs/a", "--strategy", "zero1", "--dry-run")
    assert "gemfit resume runs/a --strategy zero1" in result.output
    assert RunDir(Path("runs/a")).attempt == 1


def test_absent_gpus_are_refused(data: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemfit_launch.planning.this_machine.count_gpus", lambda: 0)
    result = cli("run", "debug/cpu-tiny", "--data", data, "--gpus", 2)
    assert result.exit_code == 2
    assert "2 GPUs are requested and 0 are visible" in result.stderr
