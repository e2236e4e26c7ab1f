"""Trackers get each step once, as the attempt trained it whose training stands."""

from __future__ import annotations

import io
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from gemfit.core.file_lock import try_lock
from gemfit.core.jsonl_log import append_record
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.metrics import EvalRecord, SaveRecord, StepRecord
from gemfit.tracking.__main__ import main
from gemfit.tracking.destinations import HERE, destination
from gemfit.tracking.sync import OPENERS, TrackerSync
from gemfit.tracking.tracker_state import TrackerState, load_state, save_state
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import Ranks
from tracking.stored import mlflow_curves, trackio_curves, wandb_curves

STEPS = 10


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run folder without records; its trackers write below it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_DIR", "TRACKIO_SPACE_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    data = tmp_path / "chat.jsonl"
    data.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    settings = ("length.num_epochs=null", f"length.max_steps={STEPS}", "tracking.report_to=[mlflow]")
    request = Request(name="debug/cpu-tiny", settings=settings, data=str(data))
    return RunDir.create(tmp_path / "run", resolve_plan(request.recipe(), Ranks(nproc=1, device="cpu")))


def train(run: RunDir, attempt: int, first: int, last: int, *, saved: tuple[int, ...] = ()) -> None:
    """Append the records of an attempt; its loss at step s is 100 times the attempt, plus s."""
    for step in range(first, last + 1):
        made = StepRecord(
            attempt=attempt,
            step=step,
            epoch=0.0,
            loss=100.0 * attempt + step,
            learning_rate=0.1,
            grad_norm=None,
            tokens_per_second=1.0,
            time=1e9 + step,
            rows_digest="",
        )
        append_record(run.metrics_file, made)
        if step in saved:
            evaluated = EvalRecord(
                attempt=attempt, step=step, loss=1.0, perplexity=1.0, token_accuracy=0.5, tokens=1, time=1e9
            )
            append_record(run.metrics_file, evaluated)
            append_record(
                run.metrics_file,
                SaveRecord(attempt=attempt, step=step, stall_seconds=0, write_seconds=0, bytes=1, time=1e9),
            )


def complete(run: RunDir) -> None:
    run.write_verdict(Verdict(outcome=AttemptOutcome.COMPLETED, attempt=2, step=STEPS))


def losses(run: RunDir) -> list[list[tuple[int, float]]]:
    """The loss curves of all MLflow runs of ``run``."""
    return [curves["train/loss"] for curves in mlflow_curves(run.trackers / "mlflow").values()]


def test_steps_after_a_crash_are_those_of_the_attempt_that_repeats_them(run: RunDir) -> None:
    train(run, 1, 1, 7, saved=(3, 5))
    assert main([str(run.root)]) == 0
    assert losses(run) == [[(step, 100.0 + step) for step in range(1, 6)]]
    train(run, 2, 6, STEPS, saved=(8, 10))
    complete(run)
    assert main([str(run.root)]) == 0
    assert main([str(run.root)]) == 0  # all is there
    whole = [(step, (100.0 if step < 6 else 200.0) + step) for step in range(1, STEPS + 1)]
    assert losses(run) == [whole]
    (curves,) = mlflow_curves(run.trackers / "mlflow").values()
    assert [step for step, _ in curves["eval/loss"]] == [3, 5, 8, 10]


def test_a_step_without_its_evaluation_waits_for_it_while_training_goes_on(run: RunDir) -> None:
    train(run, 1, 1, 5, saved=(5,))
    trackers = TrackerSync(run, ["mlflow"])
    (result,) = trackers.send(active=True, rewrite=True)
    assert (result.steps, result.last_step) == (4, 4)
    train(run, 1, 6, 6)
    (result,) = trackers.send(active=True, rewrite=True)
    assert (result.steps, result.last_step) == (1, 5)
    trackers.close()


def test_what_a_connection_that_broke_off_has_stored_is_not_stored_again(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run, 1, 1, 7, saved=(7,))
    trackers = TrackerSync(run, ["mlflow"])
    monkeypatch.setattr("gemfit.tracking.mlflow_run.METRICS_PER_REQUEST", 7)
    monkeypatch.setattr("gemfit.tracking.sync.save_state", _fail_once_sent())
    (result,) = trackers.send(active=False, rewrite=True)
    assert result.error is not None
    monkeypatch.undo()
    assert main([str(run.root)]) == 0
    assert losses(run) == [[(step, 100.0 + step) for step in range(1, 8)]]


def _fail_once_sent() -> object:
    def save(run: RunDir, state: TrackerState) -> None:
        if state.sent:
            raise OSError("the process is killed here")
        save_state(run, state)

    return save


def test_steps_that_were_trained_again_after_they_were_sent_begin_another_run(run: RunDir) -> None:
    train(run, 1, 1, 7, saved=(3, 7))
    assert main([str(run.root)]) == 0
    train(run, 2, 4, STEPS, saved=(10,))  # the checkpoint of step 7 was damaged
    complete(run)
    assert main([str(run.root)]) == 0
    old = [(step, 100.0 + step) for step in range(1, 8)]
    new = [(step, (100.0 if step < 4 else 200.0) + step) for step in range(1, STEPS + 1)]
    assert sorted(losses(run)) == sorted([old, new])


def test_the_offline_folder_of_wandb_is_one_with_each_step_once(run: RunDir) -> None:
    train(run, 1, 1, 7, saved=(5,))
    assert main([str(run.root), "--to", "wandb"]) == 0
    train(run, 2, 6, STEPS, saved=(10,))
    complete(run)
    assert main([str(run.root), "--to", "wandb", "--to", "trackio"]) == 0
    found = wandb_curves(run.trackers / "wandb")
    whole = [(step, (100.0 if step < 6 else 200.0) + step) for step in range(1, STEPS + 1)]
    assert list(found) == [load_state(run).id]
    assert found[load_state(run).id]["train/loss"] == whole
    (curves,) = trackio_curves(run.trackers / "trackio").values()
    assert curves["train/loss"] == whole


def test_an_offline_folder_of_wandb_that_was_begun_in_vain_is_written_at_the_next_call(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(made: Any, points: object) -> None:
        made.log({"train/loss": 0.5}, step=1)
        raise OSError("no space left on device")

    train(run, 1, 1, 7, saved=(7,))
    trackers = TrackerSync(run, ["wandb"])
    with monkeypatch.context() as patched:
        patched.setattr("gemfit.tracking.wandb_run._log", fill_the_disk)
        (result,) = trackers.send(active=False, rewrite=True)
    assert result.error == "OSError: no space left on device"
    (result,) = trackers.send(active=False, rewrite=True)
    assert (result.error, result.steps) == (None, 7)
    (curves,) = wandb_curves(run.trackers / "wandb").values()
    assert curves["train/loss"] == [(step, 100.0 + step) for step in range(1, 8)]


def test_a_tracker_that_does_not_answer_is_named_and_the_others_get_their_steps(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(tracked: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setitem(OPENERS, "wandb", refuse)
    train(run, 1, 1, 3, saved=(3,))
    assert main([str(run.root), "--to", "wandb", "--to", "mlflow", "--json"]) == 75
    (results,) = json.loads(capsys.readouterr().out).values()
    assert results[0]["error"] == "ConnectionError: no route to host"
    assert results[1] == {"tracker": "mlflow", "steps": 3, "last_step": 3, "error": None}


@pytest.fixture
def held(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Iterator[IO[str]]:
    """The lock of an earlier process that sends ``run``."""
    monkeypatch.setattr("gemfit.tracking.__main__.LOCK_SECONDS", 0.0)
    run.trackers.mkdir()
    with (run.trackers / "lock").open("a") as lock:
        assert try_lock(lock.fileno())
        yield lock


def test_two_commands_do_not_send_a_run_at_the_same_time(
    run: RunDir, held: IO[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train(run, 1, 1, 3, saved=(3,))
    assert main([str(run.root)]) == 2
    assert "another process is sending it to trackers; try again" in capsys.readouterr().err
    assert losses(run) == []


def test_an_attempt_waits_for_the_process_of_the_one_before(
    run: RunDir, held: IO[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run, 1, 1, 3, saved=(3,))
    complete(run)
    monkeypatch.setattr("sys.stdin", io.StringIO("3\n"))
    monkeypatch.setattr(signal, "alarm", lambda seconds: None)  # it would end the tests
    ends = threading.Timer(1.0, held.close)
    ends.start()
    assert main([str(run.root), "--follow"]) == 0
    assert losses(run) == [[(step, 100.0 + step) for step in range(1, 4)]]


def test_a_run_whose_recipe_names_no_tracker_asks_for_one(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = run.plan()
    tracking = plan.recipe.tracking.model_copy(update={"report_to": ("tensorboard",)})
    recipe = plan.recipe.model_copy(update={"tracking": tracking})
    run.plan_file.write_text(plan.model_copy(update={"recipe": recipe}).to_json())
    assert main([str(run.root)]) == 2
    assert "give one with --to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, HERE),
        ({"MLFLOW_TRACKING_URI": "https://me:secret@mlflow.example:5000/x"}, "https://mlflow.example:5000/x"),
    ],
)
def test_a_destination_holds_no_password(environment: dict[str, str], place: str) -> None:
    assert destination("mlflow", environment) == place
