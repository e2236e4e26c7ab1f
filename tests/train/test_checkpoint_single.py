"""Saving and resuming in one process, without a process group."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gemfit.errors import UserError
from gemfit.manifest import CheckpointManifest
from gemfit.rundir import RunDir
from gemfit.train.checkpoint.saving import resume, save

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


def save_step(run: RunDir, parts: dict[str, Any], step: int) -> None:
    save(
        run,
        step=step,
        cursor_row=2 * step,
        attempt=1,
        keep=3,
        strategy="single",
        plan_digest=PLAN,
        training=TRAINING,
        eval_loss=1.5,
        **parts,
    )


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
    manifest = resume(run, **resumed, training=TRAINING)
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
    resume(run, **resumed, training=TRAINING)
    assert train(resumed, 2) == train(straight, 2)


def test_a_failed_write_leaves_no_trace(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = trainee(1)
    save_step(run, parts, 1)
    parts["scheduler"].state_dict = lambda: {"not JSON": object()}
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_step(run, parts, 2)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]


def test_a_resume_puts_damaged_checkpoints_aside(run: RunDir) -> None:
    save_step(run, trainee(1), 1)
    save_step(run, trainee(1), 2)
    (run.checkpoint(2) / "progress.json").unlink()
    manifest = resume(run, **trainee(1), training=TRAINING)
    assert manifest is not None
    assert manifest.step == 1
    assert [path.name for path in run.committed()] == ["step-00000001"]
    assert (run.quarantine / "step-00000002" / "reason.txt").read_text() == "progress.json is missing\n"


def test_another_training_is_refused_with_the_difference_and_a_way_out(run: RunDir) -> None:
    save_step(run, trainee(1), 1)
    with pytest.raises(UserError) as caught:
        resume(run, **trainee(1), training=TRAINING | {"seed": 2})
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
    assert resume(run, **changed, training=other, allowed_changes=["optim"]) is not None
    assert changed["optimizer"].param_groups[0]["lr"] == 0.5
    train(changed, 1)
    assert changed["optimizer"].param_groups[0]["lr"] == 0.25
