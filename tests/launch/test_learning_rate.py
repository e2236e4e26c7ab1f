"""Learning rates of a plan: those of transformers' schedulers, and what a resume changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from gemfit.schemas.plan import Plan
from gemfit_launch.planning.learning_rate import describe_rate_change, learning_rate


def with_schedule(plan: Plan, total: int, **optim: Any) -> Plan:
    changed = plan.recipe.optim.model_copy(update=optim)
    return plan.model_copy(
        update={
            "recipe": plan.recipe.model_copy(update={"optim": changed}),
            "steps": plan.steps.model_copy(update={"total": total}),
        }
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 10), (5, 5), (9, 5)])
def test_rates_are_those_of_the_scheduler(schedule: str, warmup: int, total: int, plan: Plan) -> None:
    made = with_schedule(plan, total, schedule=schedule, warmup_steps=warmup, learning_rate=0.01)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = get_scheduler(schedule, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(1, total + 1):
        assert learning_rate(made, step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_run_made_longer_says_how_the_rate_jumps(plan: Plan) -> None:
    old = with_schedule(plan, 8, warmup_steps=0, learning_rate=0.004)
    new = with_schedule(plan, 16, warmup_steps=0, learning_rate=0.004)
    assert describe_rate_change(old, new, 8) == ["learning rate: step 8 took 0.0005, step 9 takes 0.002"]
    assert describe_rate_change(old, new, 0) == []
    assert describe_rate_change(old, old, 4) == []
