"""Planning: which recipes run on which ranks, and what the plan says about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.errors import UserError
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_training import LengthRecipe
from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.planning.plan import count_steps, find_problems, make_plan
from gemfit_launch.planning.recipes import shipped
from gemfit_launch.planning.request import Request

PACK = PackReference(fingerprint="0" * 32, folder="/packs/0")
RECIPES = list(shipped())
assert {"gemma3/1b-reference", "gemma3/270m", "debug/cpu-tiny"} <= set(RECIPES), "the catalog lost a recipe"
CARD = Request(name="gemma3/1b-reference").recipe()


def gpus(count: int) -> Topology:
    return Topology(nodes=1, ranks_per_node=count, device="cuda")


def plan_on(recipe: Recipe, topology: Topology, rows: int = 9766) -> Plan:
    return make_plan(recipe, topology=topology, pack=PACK, rows=rows, rows_are_packed=True)


@pytest.mark.parametrize(
    ("ranks", "per_device_batch_size", "gradient_accumulation_steps", "idle"),
    [(1, 4, 16, 0), (2, 4, 8, 0), (8, 4, 2, 0), (16, 4, 1, 0), (24, 3, 1, 8), (32, 2, 1, 0), (64, 1, 1, 0)],
)
def test_the_reference_recipe_keeps_its_batch_of_64_on_any_number_of_gpus(
    ranks: int, per_device_batch_size: int, gradient_accumulation_steps: int, idle: int
) -> None:
    batch = plan_on(CARD, gpus(ranks)).batch
    assert (batch.per_device_batch_size, batch.gradient_accumulation_steps, batch.idle) == (
        per_device_batch_size,
        gradient_accumulation_steps,
        idle,
    )
    assert (batch.global_batch_size, batch.world_size) == (64, ranks)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_every_shipped_recipe_plans_under_every_strategy(name: str, strategy: str, ranks: int) -> None:
    recipe = Request(name=name, strategy=strategy).recipe()
    topology = gpus(ranks)
    if strategy == "single" and ranks > 1:
        with pytest.raises(UserError, match=f"single runs on one rank, not {ranks}"):
            plan_on(recipe, topology)
        return
    plan = plan_on(recipe, topology)
    assert plan.accelerate["num_processes"] == ranks
    assert (plan.deepspeed is not None) == strategy.startswith("zero")
    assert plan.recipe.model.attention != "auto"


@pytest.mark.parametrize("strategy", ["fsdp2", "zero1", "zero2", "zero3"])
def test_offload_reaches_the_configuration_of_the_engine(strategy: str) -> None:
    plan = plan_on(Request(name="gemma3/1b-reference", strategy=strategy, offload=True).recipe(), gpus(8))
    if strategy == "fsdp2":
        assert plan.accelerate["fsdp_config"]["fsdp_offload_params"] is True
        return
    assert plan.deepspeed is not None
    zero = plan.deepspeed["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu"
    assert ("offload_param" in zero) == (strategy == "zero3")


@given(ranks=st.integers(1, 64), stage=st.sampled_from(["zero1", "zero2", "zero3"]))
def test_deepspeed_always_agrees_with_the_batch_about_slots(ranks: int, stage: str) -> None:
    plan = plan_on(Request(name="gemma3/1b-reference", strategy=stage).recipe(), gpus(ranks))
    assert plan.deepspeed is not None
    per_rank = plan.deepspeed["train_micro_batch_size_per_gpu"]
    assert per_rank * plan.deepspeed["gradient_accumulation_steps"] * ranks == plan.batch.slots
    assert plan.deepspeed["train_batch_size"] == plan.batch.slots


@given(ranks=st.integers(1, 64), rows=st.integers(1, 10**6))
def test_steps_do_not_depend_on_the_number_of_ranks(ranks: int, rows: int) -> None:
    assert plan_on(CARD, gpus(ranks), rows).steps == plan_on(CARD, gpus(1), rows).steps


@given(rows=st.integers(1, 10**6), epochs=st.floats(0.01, 10))
def test_the_last_step_is_the_first_that_covers_all_epochs(rows: int, epochs: float) -> None:
    recipe = CARD.model_copy(update={"length": LengthRecipe(num_epochs=epochs)})
    steps = count_steps(recipe, rows, packed=True)
    assert (steps.total - 1) * 64 < epochs * rows <= steps.total * 64


def test_more_ranks_than_rows_are_refused_with_the_sizes_that_work() -> None:
    with pytest.raises(UserError, match="at most 64 ranks have work, not 96") as refused:
        plan_on(CARD, gpus(96))
    assert "1, 2, 4, 8, 16, 32, 64" in str(refused.value)


def test_all_problems_of_a_recipe_are_reported_at_once() -> None:
    changed = Request(name="gemma3/1b-reference", strategy="single").recipe()
    model = changed.model.model_copy(update={"attention": "flash_attention_2"})
    recipe = changed.model_copy(update={"model": model})
    problems = find_problems(recipe, Topology(nodes=1, ranks_per_node=96, device="cpu"))
    assert [problem.split()[0] for problem in problems] == [
        "strategy",
        "model.attention",
        "batch.global_batch_size",
    ]
    with pytest.raises(UserError) as refused:
        plan_on(recipe, Topology(nodes=1, ranks_per_node=96, device="cpu"))
    assert str(refused.value).splitlines() == problems


def test_a_warm_up_that_never_ends_is_said_with_the_rate_that_is_reached() -> None:
    warnings = plan_on(CARD, gpus(8), rows=500).warnings
    assert len(warnings) == 1
    assert "the warm-up never ends: 200 warm-up steps, 24 steps in all" in warnings[0]
    assert "1.2e-05 of 0.0001" in warnings[0]


def test_a_warm_up_that_ends_is_not_mentioned() -> None:
    assert plan_on(CARD, gpus(8)).warnings == ()


def test_idle_slots_are_said_with_the_nearest_sizes_that_have_none() -> None:
    (warning,) = plan_on(CARD, gpus(24)).warnings
    assert "8 of 72 slots" in warning
    assert "16 or 32 ranks have none" in warning


def test_ddp_on_one_rank_becomes_single_and_says_so() -> None:
    plan = plan_on(CARD, gpus(1))
    assert plan.recipe.strategy.kind == "single"
    assert plan.accelerate["distributed_type"] == "NO"
    assert any("ddp on one rank" in warning for warning in plan.warnings)


def test_cpu_ranks_take_one_thread_and_see_no_gpu() -> None:
    plan = plan_on(CARD, Topology(nodes=1, ranks_per_node=2, device="cpu"))
    assert plan.env["OMP_NUM_THREADS"] == "1"
    assert plan.env["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in plan_on(CARD, gpus(2)).env


def test_equal_questions_give_equal_plans_with_equal_digests() -> None:
    assert plan_on(CARD, gpus(8)) == plan_on(CARD, gpus(8))
    assert plan_on(CARD, gpus(8)).digest == plan_on(CARD, gpus(8)).digest
    assert plan_on(CARD, gpus(8)).digest != plan_on(CARD, gpus(4)).digest


def test_a_plan_survives_its_file() -> None:
    plan = plan_on(CARD, gpus(24))
    assert Plan.model_validate_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("evaluated", "saved", "both"),
    [(20, 30, 60), (7, 10, 70), (10, 10, None), (10, 30, None), (30, 10, None), (1000, 30, None)],
)
def test_evaluations_and_checkpoints_at_different_steps_are_said(
    evaluated: int, saved: int, both: int | None
) -> None:
    evaluation = CARD.evaluation.model_copy(update={"every_steps": evaluated})
    checkpoint = CARD.checkpoint.model_copy(update={"every_steps": saved})
    recipe = CARD.model_copy(update={"evaluation": evaluation, "checkpoint": checkpoint})
    found = [warning for warning in plan_on(recipe, gpus(8), rows=20_000).warnings if "best" in warning]
    assert [f"only every {both}th step" in warning for warning in found] == ([True] if both else [])
