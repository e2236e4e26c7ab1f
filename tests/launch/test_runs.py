"""What is seen of a run from outside, and how it is asked to stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import AttemptRecord, Verdict
from gemfit.schemas.metrics import EvalRecord, StepRecord
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.metrics_tail import Tail, recent_records, seconds_left
from gemfit_launch.runs.status import read_state, read_status

Cli = Callable[..., Result]


def step(number: int, *, attempt: int = 1, time: float | None = None) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=number,
        epoch=0.1 * number,
        loss=3 - 0.1 * number,
        learning_rate=1e-4,
        grad_norm=None,
        tokens_per_second=1234.5,
        time=2.0 * number if time is None else time,
        rows_digest="0" * 32,
    )


def evaluation(number: int) -> EvalRecord:
    return EvalRecord(
        attempt=1, step=number, loss=2.5, perplexity=12.2, token_accuracy=0.4, tokens=100, time=1.0
    )


def write(run: RunDir, *records: StepRecord | EvalRecord) -> None:
    run.metrics_file.write_text("".join(record.model_dump_json() + "\n" for record in records))


@pytest.fixture
def run(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    return RunDir.create(Path("runs/a"), plan)


def test_the_state_follows_the_lock_and_the_verdict(run: RunDir) -> None:
    seen = [read_state(run)]
    with run.hold():
        run.begin_attempt()
        seen.append(read_state(run))
        run.request_stop()
        seen.append(read_state(run))
    seen.append(read_state(run))
    run.write_verdict(Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=3))
    seen.append(read_state(run))
    assert seen == ["new", "running", "stopping", AttemptOutcome.CRASHED, AttemptOutcome.STOPPED]


def test_status_shows_the_last_step_the_last_evaluation_and_the_time_left(run: RunDir) -> None:
    with run.hold():
        run.begin_attempt()
        write(run, step(1), step(2), evaluation(2), step(3), step(4))
        status = read_status(run)
    assert (status.step, status.total_steps, status.attempt) == (4, 10, 1)
    assert status.loss == pytest.approx(2.6)
    assert status.eval_loss == 2.5
    assert status.seconds_left == pytest.approx(6 * 2.0)


def test_a_run_that_does_not_run_has_no_time_left(run: RunDir) -> None:
    run.begin_attempt()
    write(run, step(1), step(2))
    assert read_status(run).seconds_left is None


def test_the_pace_is_that_of_the_current_attempt() -> None:
    steps = [step(1, time=0), step(2, time=1), step(3, attempt=2, time=1000), step(4, attempt=2, time=1003)]
    assert seconds_left(steps, total=10) == pytest.approx(6 * 3.0)
    assert seconds_left(steps[:1], total=10) is None


def test_status_lists_every_run_and_fits_a_page(run: RunDir, plan: Plan, cli: Cli) -> None:
    RunDir.create(Path("runs") / ("a-long-name-" * 6), plan)
    write(run, step(1), evaluation(1))
    output = cli("status").output
    assert "runs/a " in output
    assert "1/10" in output
    assert max(map(len, output.splitlines())) <= 100
    assert [status["run"] for status in json.loads(cli("status", "runs/a", "--json").output)] == ["runs/a"]


def test_status_says_why_a_run_failed(run: RunDir, cli: Cli) -> None:
    run.begin_attempt()
    run.write_verdict(
        Verdict(outcome=AttemptOutcome.FATAL, attempt=1, step=0, reason="the tokenizer is another one")
    )
    output = cli("status", "runs/a").output
    assert "fatal" in output
    assert "runs/a: the tokenizer is another one" in output


def test_status_without_any_run_says_how_to_start_one(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("status")
    assert result.exit_code == 2
    assert "there is no run in runs/" in result.stderr


def test_status_draws_a_picture_of_one_run(run: RunDir, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str]]] = []

    def record(module: str, arguments: list[str]) -> ExitCode:
        calls.append((module, arguments))
        return ExitCode.DONE

    monkeypatch.setattr("gemfit_launch.verbs.status.run_module", record)
    monkeypatch.setattr("gemfit_launch.verbs.status.require_train_extra", lambda verb: None)
    assert cli("status", "runs/a", "--plot", "loss.png").exit_code == 0
    assert calls == [("gemfit.train.telemetry.plot", ["runs/a", "--out", "loss.png"])]


def test_stop_asks_a_running_run_and_leaves_others_alone(run: RunDir, cli: Cli) -> None:
    assert "is not running (new)" in cli("stop", "runs/a").output
    assert not run.stop_file.exists()
    with run.hold():
        assert cli("stop", "runs/a").exit_code == 0
    assert run.stop_file.exists()


def test_stop_refuses_a_folder_that_is_no_run(tmp_path: Path, cli: Cli) -> None:
    result = cli("stop", tmp_path)
    assert result.exit_code == 2
    assert "is not a run folder" in result.stderr


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    text = step(1).model_dump_json() + "\n" + step(2).model_dump_json()
    path.write_text(text)
    assert tail.read() == [step(1)]
    assert tail.read() == []
    path.write_text(text + "\n")
    assert tail.read() == [step(2)]


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(step(number).model_dump_json() + "\n" for number in range(1, 3001)))
    records = recent_records(path)
    assert records[-1] == step(3000)
    assert 100 < len(records) < 3000


def test_a_run_that_is_named_shows_its_goodput(cli: Cli, run: RunDir) -> None:
    began = run.begin_attempt()
    record = AttemptRecord(attempt=began, plan_digest="", began=0.0, ended=36.0)
    run.attempt_record_file(began).write_text(record.to_json())
    ranks = run.plan().topology.world_size
    (status,) = json.loads(cli("status", "runs/a", "--json", "--price", "100").output)
    assert status["goodput"]["parts"]["start"] == status["goodput"]["allocated_seconds"] == 36.0 * ranks
    assert status["goodput"]["cost"]["start"] == pytest.approx(ranks)
    shown = " ".join(cli("status", "runs/a", "--price", "100").output.split())
    assert "goodput 0.0% of " in shown
    assert f"the rest: start 100.0%; at 100.00 per hour: {ranks:.2f}, of it 0.00 for kept steps" in shown
    assert "goodput" not in cli("status").output  # reading all records of all runs takes long


def test_a_price_without_a_run_is_refused(cli: Cli) -> None:
    done = cli("status", "--price", "2")
    assert done.exit_code == ExitCode.USER_ERROR
    assert "--price has no effect without a RUN" in done.output
