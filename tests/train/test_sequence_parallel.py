"""Sequence parallelism: ranks that share their rows train what one rank trains, whatever the slices cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.strategy import Engine
from gemfit.train.model.ulysses import use_sequence_parallel
from train.conftest import Attempts
from train.tiny_gemma import tiny_gemma

if TYPE_CHECKING:
    from gemfit.schemas.plan import Plan
    from train.conftest import Launch

pytestmark = pytest.mark.dist

# Slices of 32 tokens, a window of 16; others are in `sequence_cases.py`.
SETTINGS = {"model__scratch__num_attention_heads": 4, "length__max_steps": 20}
ROUNDING = 1e-6
"""Relative, in float32, of one pass."""

# strategy, ranks, how many share a row, other settings, what must be found in the process
SHARED: list[tuple[str, int, int, dict[str, Any], Engine]] = [
    ("ddp", 4, 2, {"model__attention": "eager"}, Engine(model_class="DistributedDataParallel")),
    (
        "fsdp2",
        2,
        2,
        {"model__activation_checkpointing": "true"},
        Engine(model_class="FSDPModule", parameter_class="DTensor"),
    ),
    ("zero3", 2, 2, {}, Engine(model_class="DeepSpeedEngine", zero_stage=3)),
]
"""More of them, and their table: ``sequence_parity.py``."""
FOUND_BY_THE_SELFTEST = {
    "mask dropped": r"layers\.0\.self_attn .* documents of a row see each other",
    "window dropped": r"layers\.0\.self_attn .* tokens see further than the sliding window of 16",
    "positions local to the slice": r"position_ids of the slices .* numbered by itself",
    "rotary positions local to the slice": r"positions are not those of the whole row",
    "slices swapped": r"input_ids of the slices .* from token 0 on: a slice is missing, swapped",
    "slices swapped in the exchange": r"the slices are not in their order",
    "one head wrong": r"heads 1 are wrong, the others right",
    "gradients not exchanged": r"gradients of slices .* differ from those of the whole row by",
}


@pytest.fixture(scope="module")
def compared(measure: Callable[..., Any]) -> Any:
    """What four ranks found; see ``sequence_cases``."""
    return measure("tests/train/sequence_cases.py", timeout_seconds=300)


@pytest.fixture(scope="module")
def one_rank(launch: Launch) -> Attempts:
    return launch("single", 1, **SETTINGS)


@pytest.mark.parametrize("what", ["logits", "loss", "gradients"])
def test_slices_give_what_whole_rows_give(compared: Any, what: str) -> None:
    assert len(compared["cases"]) == 2 * 4 * 3 * 4, "degrees, attentions, windows, documents"
    assert [case for case in compared["cases"] if not case[what] <= ROUNDING] == []


def test_slices_give_the_logits_of_whole_rows_under_flex_attention(compared: Any) -> None:
    """It has no backward pass on CPUs."""
    assert len(compared["flex"]) == 2 * 4, "degrees, documents"
    assert [case for case in compared["flex"] if not case["logits"] <= ROUNDING] == []


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
@pytest.mark.parametrize("degree", [2, 4])
def test_an_evaluation_of_slices_gives_the_turns_of_whole_rows(
    compared: Any, attention: str, degree: int
) -> None:
    whole, found = (compared["evaluations"][f"{attention}, {count}"] for count in (1, degree))
    assert (whole["degree"], found["degree"]) == (1, degree)
    assert len(whole["loss"]) == 8, "two turns of each row"
    assert found["loss"] == pytest.approx(whole["loss"], rel=ROUNDING)
    for exact in ("document", "turn", "tokens", "hits"):
        assert found[exact] == whole[exact]


@pytest.mark.parametrize("degree", ["2", "4"])
def test_the_selftest_passes_what_is_sound(compared: Any, degree: str) -> None:
    assert compared["faults"][degree]["none"] is None


@pytest.mark.parametrize("degree", ["2", "4"])
@pytest.mark.parametrize("fault", FOUND_BY_THE_SELFTEST)
def test_the_selftest_names_each_planted_fault(compared: Any, degree: str, fault: str) -> None:
    assert compared["faults"][degree].keys() == {"none", *FOUND_BY_THE_SELFTEST}
    assert re.search(FOUND_BY_THE_SELFTEST[fault], compared["faults"][degree][fault])


@pytest.mark.parametrize(
    ("strategy", "ranks", "degree", "settings", "engine"),
    SHARED,
    ids=[f"{name}-{ranks}-{degree}" for name, ranks, degree, *_ in SHARED],
)
def test_ranks_that_share_rows_have_losses_rows_and_evaluations_of_one_rank(
    launch: Launch,
    one_rank: Attempts,
    strategy: str,
    ranks: int,
    degree: int,
    settings: dict[str, Any],
    engine: Engine,
) -> None:
    shared = launch(strategy, ranks, **SETTINGS, **settings, strategy__sequence_parallel=degree)
    assert shared.engine == engine
    assert shared.run.plan().batch.data_ranks == ranks // degree
    assert shared.selftest["slices"]["hidden"] <= ROUNDING
    assert shared.losses == pytest.approx(one_rank.losses, rel=1e-5)
    assert [s.grad_norm for s in shared.steps] == pytest.approx(
        [s.grad_norm for s in one_rank.steps], rel=1e-3
    )
    for what in ("rows_digest", "tokens", "trained_tokens"):
        assert [getattr(s, what) for s in shared.steps] == [getattr(s, what) for s in one_rank.steps]
    assert [e.loss for e in shared.evaluations] == pytest.approx(
        [e.loss for e in one_rank.evaluations], rel=1e-5
    )
    assert [e.tokens for e in shared.evaluations] == [e.tokens for e in one_rank.evaluations]


def test_a_run_moves_between_degrees_as_between_strategies(
    fresh_run: Launch, make_plan: Callable[..., Plan], one_rank: Attempts
) -> None:
    moved = fresh_run("fsdp2", 2, **SETTINGS, strategy__sequence_parallel=2)
    assert moved.train(stop_at=6).returncode == 75
    go_on(moved.run, make_plan("ddp", 2, **SETTINGS))
    assert moved.train(stop_at=12).returncode == 75
    go_on(moved.run, make_plan("zero2", 2, **SETTINGS, strategy__sequence_parallel=2))
    assert moved.train().returncode == 0
    assert [step.attempt for step in moved.steps] == [1] * 6 + [2] * 6 + [3] * 8
    assert moved.losses == pytest.approx(one_rank.losses, rel=1e-5)
    assert [s.rows_digest for s in moved.steps] == [s.rows_digest for s in one_rank.steps]


def go_on(run: RunDir, plan: Plan) -> None:
    """Let the next attempt of ``run`` carry out ``plan``."""
    assert plan.training_identity() == run.plan().training_identity()
    run.plan_file.write_text(plan.to_json())


def test_a_rank_refuses_heads_that_do_not_divide_and_dropout_in_the_attention() -> None:
    with pytest.raises(
        UserError, match=r"sequence_parallel is 4, and the model's 6 query heads .* 1, 2, 3, 6"
    ):
        use_sequence_parallel(tiny_gemma("sdpa", hidden_size=48, num_attention_heads=6), 4)
    with pytest.raises(UserError, match="set attention_dropout to 0"):
        use_sequence_parallel(tiny_gemma("sdpa", attention_dropout=0.1), 2)
