"""Loss, gradient, weights or optimizer state that are not finite end the attempt before they are saved."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.utils._pytree import tree_leaves

from forked_ranks_environment import POISONED_ROW
from gemfit.data.pack.reader import open_pack
from gemfit.data.pack.shuffle import EMPTY
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.plan import Plan
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.finite_state import check_finite_state
from gemfit.train.data.batches import RowSchedule
from gemfit.train.loop.callbacks import BoundaryCallback
from gemfit.train.loop.finite import check_grad_norm, is_finite_norm, name_rows
from gemfit.train.loop.validation_loop import ValidationResult

if TYPE_CHECKING:
    from train.conftest import Launch

STATE = SimpleNamespace(global_step=3, max_steps=10, epoch=0.0)


def boundary(run: Path, **parts: Any) -> BoundaryCallback:
    """The callback of a trainer that has just these parts."""
    metrics, ledger = run / "metrics.jsonl", run / "ledger.jsonl"
    trainer: Any = SimpleNamespace(
        run=SimpleNamespace(metrics_file=metrics, ledger_file=ledger),
        plan=SimpleNamespace(
            recipe=None, batch=SimpleNamespace(world_size=2), pack=SimpleNamespace(folder="pack")
        ),
        layer_timer=SimpleNamespace(take=lambda: 0.1),
        data_seconds=0.0,
        **parts,
    )
    return BoundaryCallback(trainer)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_not_recorded(tmp_path: Path, loss: float) -> None:
    found = ValidationResult(loss=loss, token_accuracy=0.0, tokens=8)
    callback = boundary(tmp_path, validation_results={3: found}, attempt=1, evaluation_seconds=0.1)
    with pytest.raises(FloatingPointError, match=f"validation loss at step 3 is {loss}.*unchanged"):
        callback.on_evaluate(None, STATE, SimpleNamespace())
    assert not any(tmp_path.iterdir())


def test_a_training_loss_that_is_no_number_asks_for_no_checkpoint(tmp_path: Path) -> None:
    control = SimpleNamespace(should_save=False)
    callback = boundary(
        tmp_path,
        stop=SimpleNamespace(agree=lambda *_: (float("nan"), 0.0, *[0.1] * 6, 1.0)),
        saver=SimpleNamespace(failed=False, bound_lost_steps=lambda step: None),
        ledger=SimpleNamespace(take=lambda: (1.0,), rows=lambda taken, rows: np.array([EMPTY])),
        schedule=SimpleNamespace(rows_of=lambda step: np.array([EMPTY]), epoch=lambda step: 0.1),
        take_step_loss=lambda: float("nan"),
    )
    with pytest.raises(FloatingPointError, match="loss of step 3 is nan"):
        callback.on_step_end(None, STATE, control)
    assert not control.should_save
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), -1.0])
def test_a_gradient_norm_that_is_not_finite_names_step_and_rows(norm: float) -> None:
    assert not is_finite_norm(norm)
    with pytest.raises(
        FloatingPointError, match=r"norm of step 5 is (nan|inf) \(row 7: a\.jsonl:3\); the last"
    ):
        check_grad_norm(norm, 5, " (row 7: a.jsonl:3)")


def test_the_rows_of_a_large_step_are_counted(make_plan: Callable[..., Plan]) -> None:
    pack = Path(make_plan("single", 1).pack.folder)
    named = name_rows([*range(12), EMPTY], pack)
    assert len(re.findall(r"row \d+: \S*conversations.jsonl:\d+", named)) == 8
    assert "; and 4 more rows; see `gemfit data inspect" in named
    assert name_rows([EMPTY], pack) == ""


@pytest.mark.parametrize("norm", [0.0, 1.0, 3.4e38])
def test_a_finite_gradient_norm_passes(norm: float) -> None:
    assert is_finite_norm(norm)
    check_grad_norm(norm, 5, "")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_value_of_one_tensor_prevents_a_save(value: float, dtype: torch.dtype) -> None:
    moments = torch.zeros(1000, dtype=dtype)
    state = {"model.w": torch.ones(3), "step.w": torch.tensor(2.0), "empty": torch.empty(0)}
    shard = FlatShard(moments, 0, torch.Size([2000]))
    check_finite_state(state | {"exp_avg.w": shard}, 7)
    moments[998] = value
    with pytest.raises(FloatingPointError, match=r"^exp_avg\.w is not finite after step 7"):
        check_finite_state(state | {"exp_avg.w": shard}, 7)


def assert_finite(run: RunDir, whole: Path) -> None:
    """Every tensor of every checkpoint of ``run`` is finite."""
    for folder in run.committed():
        dcp_to_torch_save(folder, whole)
        saved = tree_leaves(torch.load(whole, weights_only=False))
        tensors = [leaf for leaf in saved if isinstance(leaf, torch.Tensor)]
        assert len(tensors) > 100
        assert all(tensor.isfinite().all() for tensor in tensors), folder


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "ranks", "dtype", "decay"),
    [
        ("single", 1, "float32", 0),
        ("ddp", 2, "bfloat16", 0),
        ("fsdp2", 2, "bfloat16", 1e5),
        ("zero2", 2, "bfloat16", 0),
        ("zero3", 2, "float32", 1e5),
    ],
)
def test_a_run_that_diverges_keeps_finite_checkpoints_only(
    strategy: str, ranks: int, dtype: str, decay: float, fresh_run: Launch, tmp_path: Path
) -> None:
    settings = {"optim__learning_rate": 1e35, "optim__warmup_steps": 0, "checkpoint__every_steps": 1}
    attempts = fresh_run(strategy, ranks, **settings, model__dtype=dtype, optim__weight_decay=decay)
    assert attempts.train().returncode != 0
    verdict = attempts.verdict
    assert verdict is not None
    assert verdict.outcome is AttemptOutcome.FATAL
    # The weight decay of step 1 overflows, whose gradient is finite: the save or the next step ends it.
    refused = r"|model\.\S+ is not finite after step 1, which is not saved; " if decay else ""
    named = r"the (gradient norm|loss) of step \d+ is (nan|inf) \(row \d+: \S*conversations.jsonl:\d+"
    assert re.match(named + refused, verdict.reason)
    if decay:
        assert not attempts.run.committed()
        assert "is not finite after step 1, which is not saved" in attempts.log()
    assert_finite(attempts.run, tmp_path / "whole.pt")


POISONED_STEP = 4


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "ranks", "kind", "settings"),
    [
        ("ddp", 2, "overflow", {"model__dtype": "bfloat16"}),
        ("fsdp2", 2, "loss", {"checkpoint__asynchronous": False}),
        ("fsdp2", 2, "gradient", {"model__lora__rank": 4}),
        ("zero2", 2, "loss", {}),
        ("zero3", 2, "gradient", {}),
    ],
)
def test_a_poisoned_row_is_named_and_the_run_goes_on_before_it(
    strategy: str,
    ranks: int,
    kind: str,
    settings: dict[str, Any],
    fresh_run: Launch,
    launch: Launch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two rows of a step for each rank, one after the other.
    size = {"batch__global_batch_size": 2 * ranks, "batch__max_per_device_batch_size": 1}
    settings = settings | size | {"checkpoint__every_steps": 1}
    attempts = fresh_run(strategy, ranks, **settings)
    plan = attempts.run.plan()
    pack = Path(plan.pack.folder)
    row = int(RowSchedule(plan, open_pack(pack, "train")).rows_of(POISONED_STEP - 1)[-1])
    monkeypatch.setenv(POISONED_ROW, f"{row}:{kind}")
    assert attempts.train().returncode != 0
    verdict = attempts.verdict
    assert verdict is not None
    assert verdict.outcome is AttemptOutcome.FATAL  # which no job starts again
    assert re.match(rf"the gradient norm of step {POISONED_STEP} is (nan|inf) \(row \d+: ", verdict.reason)
    if kind != "gradient":  # whose rows cannot be told apart
        assert name_rows([row], pack) in verdict.reason
    assert_finite(attempts.run, tmp_path / "whole.pt")

    monkeypatch.delenv(POISONED_ROW)
    assert attempts.train().returncode == 0, attempts.log(2)
    assert f"resumed at step {POISONED_STEP - 1}" in attempts.log(2)
    assert attempts.losses == launch(strategy, ranks, **settings).losses
