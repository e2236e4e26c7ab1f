"""Frozen weights under LoRA are in the compute dtype, which halves their memory and keeps the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from gemfit.train.checks import selftest
from gemfit.train.distributed.meta_init import cast_frozen
from gemfit.train.trainer_view import SelfTestError

if TYPE_CHECKING:
    from train.conftest import Launch

LORA = {"model__lora": "{rank: 4}"}


def tied_model() -> Any:
    model = torch.nn.ModuleDict({name: torch.nn.Linear(4, 4, bias=False) for name in ("a", "b", "adapter")})
    model["b"].weight = model["a"].weight.requires_grad_(False)
    return model


def test_frozen_weights_are_cast_and_stay_tied() -> None:
    model = tied_model()
    cast_frozen(model, torch.bfloat16)
    assert model["a"].weight is model["b"].weight
    assert model["a"].weight.dtype == torch.bfloat16
    assert (model["adapter"].weight.dtype, model["adapter"].weight.requires_grad) == (torch.float32, True)


def test_a_frozen_weight_of_another_dtype_is_found() -> None:
    with pytest.raises(SelfTestError, match=r"a\.weight is frozen and torch\.float32, not torch\.bfloat16"):
        selftest.check_frozen(tied_model(), torch.bfloat16)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [("single", 1), ("ddp", 2), ("fsdp2", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2)],
)
def test_losses_in_bfloat16_are_those_in_float32(strategy: str, ranks: int, launch: Launch) -> None:
    """The self-test of each run has seen frozen weights in the compute dtype."""
    reference = launch("single", 1, **LORA, model__dtype="float32", optim__learning_rate=0.01)
    run = launch(strategy, ranks, **LORA, model__dtype="bfloat16", optim__learning_rate=0.01)
    assert run.engine == run.run.plan().recipe.strategy.engine
    assert run.losses == pytest.approx(reference.losses, rel=5e-3)
    assert run.losses[-1] < run.losses[0]
