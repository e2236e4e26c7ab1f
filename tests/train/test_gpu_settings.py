"""What a plan on GPUs trains with (fused AdamW, bfloat16), run on CPUs by every strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from forked_ranks_environment import BUILT_FOR_CUDA, CUDA_PLAN
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.plan import Plan

if TYPE_CHECKING:
    from train.conftest import Launch

pytestmark = [pytest.mark.dist, pytest.mark.slow]

SETTINGS = {"model__dtype": "bfloat16", "length__max_steps": 7, "optim__learning_rate": 0.003}
STAYS = (("fsdp2", 2), ("zero3", 2))
MOVES = (("single", 1), ("ddp", 2), ("fsdp2", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2), ("single", 1))
"""Strategy and ranks of each step of a run that stops after every one."""


def test_a_run_stops_and_moves_between_all_strategies(
    fresh_run: Launch, launch: Launch, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_PLAN, "1")
    uninterrupted = launch("single", 1, **SETTINGS)
    moved = fresh_run("single", 1, **SETTINGS)
    for step, (strategy, ranks) in enumerate(MOVES, start=1):
        moved.run.adopt(make_plan(strategy, ranks, **SETTINGS))
        outcome = moved.train(stop_at=step)
        assert outcome.verdict is not None, moved.log(step)
        assert outcome.verdict.step == step
        assert "optimizer adamw_torch_fused" in moved.log(step)
    assert moved.verdict is not None
    assert moved.verdict.outcome is AttemptOutcome.COMPLETED
    assert moved.losses == pytest.approx(uninterrupted.losses, rel=5e-3)
    assert [r.rows_digest for r in moved.steps] == [r.rows_digest for r in uninterrupted.steps]


@pytest.mark.parametrize(("strategy", "ranks"), STAYS)
def test_a_resumed_run_has_the_losses_of_one_that_never_stopped(
    strategy: str, ranks: int, fresh_run: Launch, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA_PLAN, "1")
    resumed = fresh_run(strategy, ranks, **SETTINGS)
    resumed.train(stop_at=3)
    assert resumed.train().returncode == 0
    assert resumed.losses == pytest.approx(launch(strategy, ranks, **SETTINGS).losses, rel=1e-4)


def test_fsdp2_trains_on_cpus_with_a_build_of_torch_for_cuda(
    fresh_run: Launch, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUILT_FOR_CUDA, "1")
    run = fresh_run("fsdp2", 2)
    assert run.train().returncode == 0, run.log()
    monkeypatch.delenv(BUILT_FOR_CUDA)
    assert run.losses == launch("fsdp2", 2).losses
