"""Early stopping: a run whose validation loss no longer falls ends before its last step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gemfit.checkpoint.store import best_checkpoint
from gemfit.core.jsonl_log import append_record
from gemfit.errors import UserError
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.hub import HubRecipe
from gemfit.schemas.metrics import EvalRecord
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.schemas.recipe_training import CheckpointRecipe, EarlyStopping, EvaluationRecipe
from gemfit.train.loop.early_stopping import EarlyStoppingMonitor, judge, recorded_losses
from gemfit_launch.planning.replan import check_not_complete
from gemfit_launch.runs.exit_report import conclude
from gemfit_launch.runs.status import read_status

if TYPE_CHECKING:
    from train.conftest import Launch

TWO = EarlyStopping(patience=2)


def test_it_stops_after_as_many_evaluations_without_improvement_as_patience_says() -> None:
    losses = {0: 5.0, 10: 4.0, 20: 4.0, 30: 4.1}
    stop = judge(losses, TWO)
    assert stop is not None
    assert (stop.best_step, stop.best_loss) == (10, 4.0)
    assert judge(losses | {40: 3.9}, TWO) is None
    assert judge({step: loss for step, loss in losses.items() if step < 30}, TWO) is None


def test_a_fall_of_less_than_min_delta_is_no_improvement() -> None:
    losses = {0: 5.0, 10: 4.95, 20: 4.91}
    assert judge(losses, EarlyStopping(patience=2, min_delta=0.1)) is not None
    assert judge(losses, TWO) is None


def test_a_loss_that_is_no_number_is_no_improvement() -> None:
    assert judge({0: 5.0, 1: math.nan, 2: math.nan}, TWO) is not None


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 29))
def test_a_resumed_run_decides_as_one_that_was_never_interrupted(
    losses: list[float], patience: int, cut: int
) -> None:
    whole, resumed = (EarlyStoppingMonitor(EarlyStopping(patience=patience)) for _ in range(2))
    resumed._losses = dict(enumerate(losses[:cut]))  # as it was recalled
    for step, loss in enumerate(losses):
        whole.add(step, loss)
        if step >= max(0, cut - 2):  # some steps are done again
            resumed.add(step, loss)
    assert whole.stop == resumed.stop


def test_what_is_recalled_is_the_newest_of_each_step_up_to_the_checkpoint(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert recorded_losses(metrics, 10) == {}
    for attempt, step, loss in ((1, 0, 5.0), (1, 10, 4.0), (1, 20, 3.0), (2, 10, 4.5)):
        append_record(metrics, evaluation(attempt, step, loss))
    assert recorded_losses(metrics, 10) == {0: 5.0, 10: 4.5}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"checkpoint": CheckpointRecipe(keep_best=False)}, "needs `checkpoint.keep_best`"),
        (
            {"checkpoint": CheckpointRecipe(every_steps=30)},
            r"is not a multiple of `checkpoint.every_steps` \(30\)",
        ),
        ({"data": DataRecipe(validation_share=0)}, "needs a validation split"),
        ({"hub": HubRecipe(repo="me/mine", push="end")}, "`hub.push: end` waits for the last step"),
    ],
)
def test_a_recipe_under_which_the_best_would_be_lost_is_refused(wrong: dict[str, object], words: str) -> None:
    model, early = ModelRecipe(id="somewhere"), EvaluationRecipe(early_stopping=TWO)
    assert Recipe(model=model, evaluation=early).evaluation.early_stopping == TWO
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate({"model": model, "evaluation": early, **wrong})


def evaluation(attempt: int, step: int, loss: float) -> EvalRecord:
    return EvalRecord(
        attempt=attempt, step=step, loss=loss, perplexity=1.0, token_accuracy=0.0, tokens=1, time=0.0
    )


EARLY = {
    "length__max_steps": 20,
    "evaluation__every_steps": 1,
    "checkpoint__every_steps": 1,
    "evaluation__early_stopping__patience": 3,
    "evaluation__early_stopping__min_delta": 10,  # so that only the first evaluation is an improvement
    "tracking__log_every_steps": 5,
}


@pytest.mark.slow
def test_a_resumed_run_stops_at_the_step_that_an_uninterrupted_one_would_have(fresh_run: Launch) -> None:
    attempts = fresh_run("single", 1, **EARLY)
    attempts.train(stop_at=2)
    outcome = attempts.train()
    verdict = attempts.verdict
    assert verdict is not None, attempts.log(2)
    assert (verdict.outcome, verdict.step) == (AttemptOutcome.COMPLETED, 3), attempts.log(2)
    assert verdict.early_stop is not None
    assert verdict.early_stop.best_step == 0
    assert attempts.run.checkpoint(3).is_dir()
    assert [record.step for record in attempts.evaluations] == [0, 1, 2, 3]
    assert [record.step for record in attempts.steps] == [2, 3], "the last of each attempt"

    saved = {record.step: record.loss for record in attempts.evaluations if record.step}
    assert best_checkpoint(attempts.run)[1].step == min(saved, key=lambda step: saved[step])

    status = read_status(attempts.run)
    assert (status.state, status.step) == (AttemptOutcome.COMPLETED, 3)
    assert "has not fallen by more than 10 below" in status.reason
    assert "stopped early" in conclude(attempts.run, outcome).text

    plan = attempts.run.plan()
    with pytest.raises(UserError, match=r"--set evaluation[.]early_stopping[.]patience=N"):
        check_not_complete(attempts.run, plan)
    for asked in (None, EarlyStopping(patience=4, min_delta=10), EarlyStopping(patience=3, min_delta=1)):
        other = plan.recipe.evaluation.model_copy(update={"early_stopping": asked})
        recipe = plan.recipe.model_copy(update={"evaluation": other})
        check_not_complete(attempts.run, plan.model_copy(update={"recipe": recipe}))
