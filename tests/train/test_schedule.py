"""What each rank takes at each step, without any communication."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemfit.data.pack.reader import open_pack
from gemfit.schemas.plan import Plan
from gemfit.train.data.batches import RowSchedule, TrainBatches, ValidationBatches

MakePlan = Callable[..., Plan]


def make_schedule(plan: Plan) -> RowSchedule:
    return RowSchedule(plan, open_pack(Path(plan.pack.folder), "train"))


def take(schedule: RowSchedule, rank: int, start: int = 0) -> list[dict[str, Any]]:
    batches = TrainBatches(schedule, rank, pad_id=0)
    batches.start_step = start
    return list(batches)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 16])
def test_the_ranks_together_train_the_same_tokens_at_every_world_size(
    ranks: int, make_plan: MakePlan
) -> None:
    strategy = "single" if ranks == 1 else "ddp"
    plan = make_plan(strategy, ranks)
    schedule = make_schedule(plan)
    gradient_accumulation_steps = plan.batch.gradient_accumulation_steps
    parts = [take(schedule, rank) for rank in range(ranks)]
    assert {len(part) for part in parts} == {6 * gradient_accumulation_steps}
    for step in range(6):
        of_step = slice(step * gradient_accumulation_steps, (step + 1) * gradient_accumulation_steps)
        batches = [batch for part in parts for batch in part[of_step]]
        trained = sum(int((batch["targets"] != -100).sum()) for batch in batches)
        assert trained == schedule.trained_tokens(step)
        assert {batch["step_tokens"] for batch in batches} == {trained}


def test_starting_later_gives_exactly_the_rest(make_plan: MakePlan) -> None:
    schedule = make_schedule(make_plan("ddp", 2))
    gradient_accumulation_steps = schedule.plan.batch.gradient_accumulation_steps
    whole, rest = take(schedule, 1), take(schedule, 1, start=4)
    assert len(rest) == 2 * gradient_accumulation_steps
    for late, early in zip(rest, whole[4 * gradient_accumulation_steps :], strict=True):
        assert torch.equal(late["input_ids"], early["input_ids"])


def test_an_epoch_takes_every_row_once_and_the_last_step_may_be_short(make_plan: MakePlan) -> None:
    plan = make_plan("single", 1, length__num_epochs=1, length__max_steps="null", batch__global_batch_size=7)
    schedule = make_schedule(plan)
    rows = [int(row) for step in range(plan.steps.total) for row in schedule.rows_of(step)]
    assert sorted(row for row in rows if row >= 0) == list(range(len(schedule.rows)))
    idle = -len(schedule.rows) % 7
    assert rows[-idle:] == [-1] * idle
    assert idle > 0, "the number of rows must not divide, or this shows nothing"
    assert schedule.cursor(plan.steps.total) == len(schedule.rows)
    assert schedule.epoch(plan.steps.total) == 1


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_validation_row_is_measured_once_in_equally_many_batches(
    ranks: int, make_plan: MakePlan
) -> None:
    plan = make_plan("single" if ranks == 1 else "ddp", ranks)
    rows = open_pack(Path(plan.pack.folder), "validation")
    assert len(rows) > 1
    parts = [list(ValidationBatches(plan, rows, rank, pad_id=0)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    trained = sum(int((batch["targets"] != -100).sum()) for part in parts for batch in part)
    assert trained == int(rows.trained_tokens.sum())
