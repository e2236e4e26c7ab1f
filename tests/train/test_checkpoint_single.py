"""Saving and resuming in one process, without a process group."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gemfit.checkpoint import SupersededError
from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest
from gemfit.schemas.metrics import SaveRecord
from gemfit.train.checkpoint import async_saver
from gemfit.train.checkpoint import save_load as saving_module
from gemfit.train.checkpoint.async_saver import Saver
from gemfit.train.checkpoint.engine_state import collect
from gemfit.train.checkpoint.save_load import SaveContext, Snapshot, TrainingState, resume, write

PLAN = "1" * 32
TRAINING = {"optim.learning_rate": 0.1, "seed": 1}
INPUT = torch.linspace(-1, 1, 24).view(4, 6)


def trainee(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "accelerator": accelerator}


def train(parts: dict[str, Any], steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = parts["model"](INPUT).square().mean()
        loss.backward()
        parts["optimizer"].step()
        parts["scheduler"].step()
        parts["optimizer"].zero_grad()
        losses.append(loss.item())
    return losses


def saver(run: RunDir, *, asynchronous: bool = False, **options: Any) -> Saver:
    context = SaveContext(attempt=1, strategy="single", plan_digest=PLAN, training=TRAINING, keep=3)
    return Saver(run, context, asynchronous=asynchronous, **options)


def chain(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


def save_step(run: RunDir, parts: dict[str, Any], step: int) -> None:
    saver(run).save(TrainingState(**parts), step=step, cursor_row=2 * step, eval_loss=1.5)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    return run


def test_a_resumed_process_goes_on_bit_for_bit(run: RunDir) -> None:
    straight, resumed = trainee(1), trainee(2)
    # What is not trained is not saved: it comes from the base model.
    resumed["model"][0].bias.data = straight["model"][0].bias.data.clone()
    train(straight, 3)
    save_step(run, straight, 3)
    manifest = resume(run, TrainingState(**resumed), identity=TRAINING)
    assert manifest is not None
    assert (manifest.step, manifest.cursor_row, manifest.eval_loss) == (3, 6, 1.5)
    assert train(resumed, 4) == train(straight, 4)


def test_the_manifest_names_every_file(run: RunDir) -> None:
    save_step(run, trainee(1), 3)
    folder = run.checkpoint(3)
    manifest = CheckpointManifest.read(folder / "manifest.json")
    unlisted = {"manifest.json", "manifest.xxh3"}
    assert {file.path for file in manifest.files} == {p.name for p in folder.iterdir()} - unlisted


def test_a_checkpoint_before_the_first_step_resumes(run: RunDir) -> None:
    straight, resumed = trainee(1), trainee(2)
    resumed["model"][0].bias.data = straight["model"][0].bias.data.clone()
    save_step(run, straight, 0)
    resume(run, TrainingState(**resumed), identity=TRAINING)
    assert train(resumed, 2) == train(straight, 2)


def test_a_failed_write_leaves_no_trace(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = trainee(1)
    save_step(run, parts, 1)

    def fail(staging: Path, files: dict[str, bytes]) -> None:
        raise RuntimeError("the write failed")

    monkeypatch.setattr(saving_module, "_write_side_files", fail)
    with pytest.raises(RuntimeError, match="the write failed"):
        save_step(run, parts, 2)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]


def test_a_resume_puts_damaged_checkpoints_aside(run: RunDir) -> None:
    save_step(run, trainee(1), 1)
    save_step(run, trainee(1), 2)
    (run.checkpoint(2) / "progress.json").unlink()
    manifest = resume(run, TrainingState(**trainee(1)), identity=TRAINING)
    assert manifest is not None
    assert manifest.step == 1
    assert [path.name for path in run.committed()] == ["step-00000001"]
    assert (run.quarantine / "step-00000002" / "reason.txt").read_text() == "progress.json is missing\n"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"scheduler": 1}', '{"scheduler": {}}', '{"scheduler": {"last_epoch": "x"}}'],
)
def test_progress_that_others_have_written_is_named(
    content: str, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_files = saving_module._side_files
    monkeypatch.setattr(
        saving_module,
        "_side_files",
        lambda *parts: side_files(*parts) | {"progress.json": content.encode()},
    )
    save_step(run, trainee(1), 1)  # with the digests of that content
    with pytest.raises(UserError, match=r"step-00000001/progress\.json: "):
        resume(run, TrainingState(**trainee(1)), identity=TRAINING)


def test_another_training_is_refused_with_the_difference_and_a_way_out(run: RunDir) -> None:
    save_step(run, trainee(1), 1)
    with pytest.raises(UserError) as caught:
        resume(run, TrainingState(**trainee(1)), identity=TRAINING | {"seed": 2})
    assert "step-00000001: this would change what is trained:\n  seed: was 1, is 2\n" in str(caught.value)
    assert "--allow-changed seed" in str(caught.value)


def test_an_allowed_change_of_the_learning_rate_takes_effect_at_once(run: RunDir) -> None:
    save_step(run, trainee(1), 1)
    changed = trainee(1)
    changed["optimizer"] = torch.optim.AdamW(changed["optimizer"].param_groups[0]["params"], lr=0.5)
    changed["scheduler"] = torch.optim.lr_scheduler.LambdaLR(
        changed["optimizer"], lambda step: 1 / (1 + step)
    )
    other = TRAINING | {"optim.learning_rate": 0.5}
    assert resume(run, TrainingState(**changed), identity=other, allowed_changes=["optim"]) is not None
    assert changed["optimizer"].param_groups[0]["lr"] == 0.5
    train(changed, 1)
    assert changed["optimizer"].param_groups[0]["lr"] == 0.25


def test_training_goes_on_while_the_step_that_was_left_is_written(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, resumed = trainee(1), trainee(2)
    resumed["model"][0].bias.data = straight["model"][0].bias.data.clone()
    train(straight, 3)
    began, may_go_on = threading.Event(), threading.Event()

    def write_late(*arguments: Any, **options: Any) -> int:
        began.set()
        assert may_go_on.wait(20)
        return write(*arguments, **options)

    monkeypatch.setattr(async_saver, "write", write_late)
    records: list[SaveRecord] = []
    with saver(run, asynchronous=True, on_commit=records.append) as saving:
        saving.save(TrainingState(**straight), step=3, cursor_row=6, eval_loss=None)
        assert began.wait(20)
        losses = train(straight, 4)
        assert run.committed() == []
        may_go_on.set()
    assert run.checkpoint(3).is_dir(), "no rank leaves before the commit"
    resume(run, TrainingState(**resumed), identity=TRAINING)
    assert train(resumed, 4) == losses
    [record] = records
    assert record.step == 3
    assert record.bytes == sum(
        file.bytes for file in CheckpointManifest.read(run.checkpoint(3) / "manifest.json").files
    )
    assert 0 < record.stall_seconds < record.write_seconds


def test_a_second_save_waits_for_the_first(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, order = trainee(1), []

    def write_slowly(run: RunDir, context: Any, snapshot: Snapshot, group: Any, **options: Any) -> int:
        order.append(("begin", snapshot.step))
        time.sleep(0.3)
        order.append(("end", snapshot.step))
        return 0

    monkeypatch.setattr(async_saver, "write", write_slowly)
    with saver(run, asynchronous=True) as saving:
        for step in (1, 2, 3):
            saving.save(TrainingState(**parts), step=step, cursor_row=step, eval_loss=None)
    assert order == [(what, step) for step in (1, 2, 3) for what in ("begin", "end")]


def test_a_step_beyond_what_may_be_lost_waits_for_the_commit(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, committed, waiting = trainee(1), threading.Event(), threading.Event()
    records: list[SaveRecord] = []

    def write_slowly(run: RunDir, context: Any, snapshot: Snapshot, group: Any, **options: Any) -> int:
        assert waiting.wait(20)
        time.sleep(0.3)
        committed.set()
        return 0

    monkeypatch.setattr(async_saver, "write", write_slowly)
    with saver(run, asynchronous=True, max_lost_steps=3, on_commit=records.append) as saving:
        saving.save(TrainingState(**parts), step=2, cursor_row=2, eval_loss=None)
        monkeypatch.setattr(saving, "wait", chain(waiting.set, saving.wait))
        saving.bound_lost_steps(3)
        assert not committed.is_set(), "three steps may be lost"
        saving.bound_lost_steps(4)
        assert committed.is_set()
        assert saving.safe_step == 2
        saving.save(TrainingState(**parts), step=6, cursor_row=6, eval_loss=None)
        assert saving._bounding_since is None, "that wait is not one for the next save"
    assert records[0].stall_seconds >= 0.3


def test_a_failing_asynchronous_save_is_raised_once(run: RunDir) -> None:
    parts = trainee(1)
    with saver(run, asynchronous=True) as saving:
        saving.save(TrainingState(**parts), step=1, cursor_row=2, eval_loss=None)
        saving.wait()
        write_atomic(run.attempt_file, "2\n")
        saving.save(TrainingState(**parts), step=2, cursor_row=4, eval_loss=None)
        deadline = time.monotonic() + 20
        while not saving.failed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert saving.failed
        with pytest.raises(SupersededError):
            saving.wait()
        assert not saving.failed
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]


def test_a_save_that_fails_at_the_very_end_is_raised(run: RunDir) -> None:
    write_atomic(run.attempt_file, "2\n")
    with pytest.raises(SupersededError), saver(run, asynchronous=True) as saving:
        saving.save(TrainingState(**trainee(1)), step=1, cursor_row=2, eval_loss=None)


def test_a_failure_of_the_training_lets_the_save_under_way_end_and_stays_the_one_raised(
    run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    parts = trainee(1)

    def save_and_fail(step: int) -> None:
        with saver(run, asynchronous=True) as saving:
            saving.save(TrainingState(**parts), step=step, cursor_row=2 * step, eval_loss=None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save_and_fail(1)
    assert run.checkpoint(1).is_dir()
    write_atomic(run.attempt_file, "2\n")
    with pytest.raises(ZeroDivisionError):
        save_and_fail(2)
    assert "the checkpoint under way was not saved" in caplog.text


@pytest.mark.parametrize("fused", [True, False])
def test_state_that_a_resume_fills_is_on_the_device_where_adamw_makes_it(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the meta device in place of a GPU: a fused AdamW counts its steps there, any other one on the CPU.
    model = nn.Linear(6, 5, device="meta")
    made, expected = (torch.optim.AdamW(model.parameters(), fused=fused, foreach=False) for _ in range(2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam = import_module("torch.optim.adam")  # torch hides it behind the class
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda parameter: None)
    initialize: Any = expected._init_group
    initialize(expected.param_groups[0], *([] for _ in range(6)))
    accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped)
    state = collect(model, made, accelerator)
    for name, parameter in model.named_parameters():
        for key, value in expected.state[parameter].items():
            found = state[f"{key}.{name}"]
            assert isinstance(found, torch.Tensor)
            assert (found.device, found.dtype, found.shape) == (value.device, value.dtype, value.shape)
