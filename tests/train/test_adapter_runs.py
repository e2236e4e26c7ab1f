"""Adapters in whole runs: every engine trains them with one rank's losses, and a resume goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gemfit.rundir import RunDir

if TYPE_CHECKING:
    from train.conftest import Attempts, Launch

from train.test_qlora_runs import qlora  # noqa: F401  (a folder of weights, read while a run starts)

pytestmark = [pytest.mark.dist, pytest.mark.slow]

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
ADAPTERS = {
    "model__lora": "{rank: 4, targets: all-linear, use_rslora: true, use_dora: true, "
    "modules_to_save: [embed_tokens]}",
    "model__quantization": "null",
    "model__activation_checkpointing": "true",
}


@pytest.fixture(scope="module")
def settings(qlora: dict[str, Any]) -> dict[str, Any]:  # noqa: F811  (the fixture)
    return qlora | ADAPTERS


@pytest.fixture(scope="module")
def one_rank(launch: Launch, settings: dict[str, Any]) -> Attempts:
    return launch("single", 1, **settings, checkpoint__every_steps=2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_adapters_and_copies_with_the_losses_of_one_rank(
    strategy: str, launch: Launch, settings: dict[str, Any], one_rank: Attempts
) -> None:
    attempts = launch(strategy, 2, **settings)
    assert attempts.engine == attempts.run.plan().recipe.strategy.engine
    assert attempts.losses == pytest.approx(one_rank.losses, rel=1e-4)
    assert attempts.losses[-1] < attempts.losses[0] - 0.01
    norms = [step.grad_norm for step in attempts.steps]
    assert norms == pytest.approx([step.grad_norm for step in one_rank.steps], rel=1e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero3"])
def test_losses_in_bfloat16_are_those_in_float32(
    strategy: str, launch: Launch, settings: dict[str, Any], one_rank: Attempts
) -> None:
    attempts = launch(strategy, 2, **settings, model__dtype="bfloat16")
    assert attempts.losses == pytest.approx(one_rank.losses, rel=1e-2)
    assert attempts.losses != pytest.approx(one_rank.losses, rel=1e-7), "it was computed in float32"


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_dora_over_4_bits_has_the_losses_of_one_rank(
    strategy: str, launch: Launch, settings: dict[str, Any]
) -> None:
    quantized = settings | {"model__quantization": "nf4", "model__lora": "{rank: 4, use_dora: true}"}
    expected = launch("single", 1, **quantized)
    assert launch(strategy, 2, **quantized).losses == pytest.approx(expected.losses, rel=2e-4)


def test_a_resumed_run_has_the_losses_of_one_that_went_through(one_rank: Attempts, tmp_path: Path) -> None:
    shutil.copytree(one_rank.run.root, tmp_path / "run")
    run = RunDir.open(tmp_path / "run")
    shutil.rmtree(run.checkpoint(4))
    run.verdict_file.unlink()
    resumed = type(one_rank)(run, one_rank.ranks)
    assert resumed.train().returncode == 0, resumed.log(2)
    assert [step.step for step in resumed.steps] == [1, 2, 3, 4, 3, 4]
    assert resumed.losses[4:] == one_rank.losses[2:]
