"""A strategy of one rank uses one GPU, however many are visible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from transformers import Trainer

from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan, Topology
from gemfit.train.checks import selftest
from gemfit.train.loop.arguments import training_arguments
from gemfit.train.model.build import load_model


@pytest.fixture(autouse=True)
def _no_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


@pytest.fixture
def gpu_plan(make_plan: Callable[..., Plan]) -> Plan:
    """A plan of one rank on a GPU."""
    topology = Topology(nodes=1, ranks_per_node=1, device="cuda")
    return make_plan("single", 1).model_copy(update={"topology": topology})


@pytest.fixture
def model(gpu_plan: Plan) -> Any:
    return load_model(gpu_plan.recipe, train_tokenizer(["some text to learn from"] * 4, 300))


@pytest.mark.parametrize("visible", [1, 4, 8])
def test_the_model_is_not_replicated_over_visible_gpus(
    visible: int, gpu_plan: Plan, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A build of torch for CUDA takes a count as a sign that there is a driver.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    arguments = training_arguments(gpu_plan, RunDir.create(tmp_path / "run", gpu_plan))
    trainer = Trainer(model=model, args=arguments, train_dataset=[1])
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == gpu_plan.batch.per_device_batch_size
    assert trainer._wrap_model(trainer.model) is model


def test_ranks_wait_for_each_other_as_long_as_they_may(
    gpu_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("gemfit.train.loop.arguments.COLLECTIVE_TIMEOUT", timedelta(days=30))
    arguments = training_arguments(gpu_plan, RunDir.create(tmp_path / "run", gpu_plan))
    assert arguments.ddp_timeout == 30 * 24 * 3600


def test_a_data_parallel_model_is_not_called_plain(model: Any) -> None:
    with pytest.raises(RuntimeError, match="the engine is DataParallel, which is not one of a strategy"):
        selftest.engine_in_use(torch.nn.DataParallel(model), model)


def test_an_unknown_wrapper_is_named(gpu_plan: Plan, model: Any) -> None:
    class Replicated(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

    wrapped = Replicated(model)
    trainer: Any = SimpleNamespace(
        plan=gpu_plan, model_wrapped=wrapped, accelerator=SimpleNamespace(unwrap_model=lambda given: given)
    )
    with pytest.raises(RuntimeError, match="the engine is Replicated, which is not one of a strategy"):
        selftest.check(trainer)
