"""QLoRA in whole runs: engines that place bits, and a run that goes on where it was."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.tokenize.tokenizer import save_tokenizer, train_tokenizer
from gemfit.rundir import RunDir
from gemfit.schemas.strategy import Engine
from gemfit_launch.cli import main
from train.conftest import SAMPLE, Attempts

if TYPE_CHECKING:
    from train.conftest import Launch

pytestmark = [pytest.mark.dist, pytest.mark.slow]

LAYERS = 6


@pytest.fixture(scope="module")
def qlora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run over a folder of weights, read while it starts."""
    folder = tmp_path_factory.mktemp("base")
    with SAMPLE.open() as lines:
        tokenizer = train_tokenizer(list(itertools.islice(lines, 4)), 512)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "head_dim": 32}
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=LAYERS,
        num_key_value_heads=1,
        sliding_window=16,
        initializer_range=0.1,
        **sizes,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    save_tokenizer(tokenizer, folder)
    return {
        "model__scratch": "null",
        "model__id": folder,
        "model__lora": "{rank: 4}",
        "model__quantization": "nf4",
        "length__max_steps": 4,
        "optim__learning_rate": 0.01,
        "optim__warmup_steps": 1,
    }


@pytest.fixture(scope="module")
def ddp(launch: Launch, qlora: dict[str, Any]) -> Attempts:
    return launch("ddp", 2, **qlora, checkpoint__every_steps=2)


@pytest.fixture
def halfway(ddp: Attempts, tmp_path: Path) -> Attempts:
    """A copy of the run that has gone no further than its second step."""
    shutil.copytree(ddp.run.root, tmp_path / "run")
    run = RunDir.open(tmp_path / "run")
    shutil.rmtree(run.checkpoint(4))
    run.verdict_file.unlink()
    assert [folder.name for folder in run.committed()] == [run.checkpoint(2).name]
    return Attempts(run, ddp.ranks)


def test_ddp_trains_over_4_bits(ddp: Attempts) -> None:
    assert ddp.selftest["layers_in_4_bits"] == 7 * LAYERS
    assert ddp.losses[-1] < ddp.losses[0]


def test_a_resumed_run_has_the_losses_of_one_that_went_through(halfway: Attempts, ddp: Attempts) -> None:
    assert halfway.train().returncode == 0, halfway.log(2)
    assert [step.step for step in halfway.steps] == [1, 2, 3, 4, 3, 4]
    assert halfway.losses[4:] == ddp.losses[2:]


@pytest.mark.usefixtures("forked_resume")
@pytest.mark.parametrize(
    ("strategy", "engine"),
    [
        ("fsdp2", Engine(model_class="FSDPModule", parameter_class="DTensor")),
        ("zero3", Engine(model_class="DeepSpeedEngine", parameter_class="Parameter", zero_stage=3)),
    ],
)
def test_a_run_goes_on_with_the_same_losses_in_an_engine_that_shards_the_bits(
    strategy: str, engine: Engine, halfway: Attempts, ddp: Attempts
) -> None:
    argv = ["resume", str(halfway.run.root), "--strategy", strategy]
    result = CliRunner().invoke(main, argv)
    assert result.exit_code == 0, result.output
    found = halfway.log(2).partition("selftest ")[2].splitlines()[0]
    assert Engine.model_validate(json.loads(found)["engine"]) == engine
    assert json.loads(found)["layers_in_4_bits"] == 7 * LAYERS
    assert halfway.losses[4:] == pytest.approx(ddp.losses[2:], rel=2e-4)


def test_ranks_that_share_their_rows_train_over_4_bits_as_others_do(
    launch: Launch, qlora: dict[str, Any], ddp: Attempts
) -> None:
    shared = launch("fsdp2", 2, **qlora, strategy__sequence_parallel=2)
    assert shared.selftest["layers_in_4_bits"] == 7 * LAYERS
    assert shared.losses == pytest.approx(ddp.losses, rel=1e-5)
