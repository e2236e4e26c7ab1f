"""A run that was trained for two steps, made once, and a fake Hub for each test."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from gemfit.core.jsonl_log import append_record
from gemfit.publish.export_push import export_push
from gemfit.publish.push import main
from gemfit.rundir import RunDir
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.metrics import StepRecord
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit.train.checkpoint.host_copy import HostMemory
from gemfit.train.checkpoint.save_load import SaveContext, TrainingState, take_snapshot, write
from gemfit.upload.spool import push_of_step
from publish.server import HubServer
from train.trained import Trained, train

REPO = "user/kind"
# Its weights are large enough to go over LFS.
SMALL = ScratchModel(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=6)


@dataclass(frozen=True)
class Made:
    """A copy of the trained run that a test may change."""

    run: RunDir
    model: torch.nn.Module

    def save(self, step: int, eval_loss: float | None = None, *, keep: int = 9) -> None:
        """Commit another checkpoint, with slightly different weights so that its files differ."""
        with torch.no_grad():
            next(self.model.parameters()).add_(1e-3)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)
        training = TrainingState(
            model=self.model,
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
            accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        )
        snapshot = take_snapshot(
            training, HostMemory(), step=step, cursor_row=2 * step, eval_loss=eval_loss, copied=False
        )
        plan = self.run.plan()
        context = SaveContext(
            attempt=1,
            strategy="single",
            plan_digest=plan.digest,
            training=plan.training_identity(),
            keep=keep,
        )
        write(self.run, context, snapshot)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    made = train(tmp_path_factory.mktemp("hub"), ModelRecipe(scratch=SMALL))
    for step in (1, 2):
        append_record(made.run.metrics_file, step_record(step))
    return made


@pytest.fixture(scope="session")
def ready_root(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run with a push of its step that is ready to be sent."""
    root = tmp_path_factory.mktemp("ready") / "run"
    shutil.copytree(trained.run.root, root)
    export_push(RunDir(root), push_of_step(HubRecipe(repo=REPO, push="end"), step=2))
    return root


@pytest.fixture
def made(trained: Trained, tmp_path: Path) -> Made:
    shutil.copytree(trained.run.root, tmp_path / "run")
    return Made(RunDir(tmp_path / "run"), copy.deepcopy(trained.model))


@pytest.fixture
def ready(ready_root: Path, tmp_path: Path) -> RunDir:
    """A copy of the run whose push is ready to be sent."""
    shutil.copytree(ready_root, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A fake Hub that this process and its children push to."""
    with HubServer(tmp_path / "hub") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        # Values that a process started now would read.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        yield server


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each sleep of the client, which is skipped."""
    slept: list[float] = []

    def sleep(seconds: float, real: Callable[[float], None] = time.sleep) -> None:
        slept.append(seconds)
        real(min(seconds, 0.01))

    monkeypatch.setattr(time, "sleep", sleep)
    return slept


def step_record(step: int) -> StepRecord:
    return StepRecord(
        attempt=1,
        step=step,
        epoch=step / 10,
        loss=6.0 - step,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=100.0,
        time=1_700_000_000.0 + step,
        seconds=1.0,
        tokens=100,
        trained_tokens=90,
        rows_digest="0",
    )


def send(run: RunDir, *options: str) -> int:
    return main(["--spooled", str(run.root), *options])


def commits(hub: HubServer) -> list[str]:
    """Messages of all commits but the first, which the server makes."""
    return list(hub.repos[REPO].messages.values())[1:]
