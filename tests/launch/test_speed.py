"""Speed settings of a plan, and refused combinations of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from gemfit.schemas.optimizer import optimizer_of, prefetch_depth
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.speed import speed_lines, speed_problems
from gemfit_launch.predict.shape_lookup import find_shape

GPUS, CPUS = (Topology(nodes=1, ranks_per_node=2, device=device) for device in ("cuda", "cpu"))

IN_4_BITS = ("model.lora={rank: 4}", "model.quantization=nf4")


def recipe(*settings: str, strategy: str = "ddp", offload: bool = False) -> Recipe:
    return Request(name="gemma3/1b-reference", settings=settings, strategy=strategy, offload=offload).recipe()


def plan_of(made: Recipe, topology: Topology = GPUS) -> Plan:
    pack = PackReference(fingerprint="0" * 32, folder="pack")
    return make_plan(made, topology=topology, pack=pack, rows=100, rows_are_packed=True)


def lines(plan: Plan) -> dict[str, tuple[str, str]]:
    shape = find_shape(plan.recipe.model).shape
    return {line.what: (line.chosen, line.because) for line in speed_lines(plan, shape)}


def test_the_loss_in_slices_saves_what_a_whole_batch_would_need() -> None:
    printed = lines(plan_of(recipe("batch.max_per_device_batch_size=4")))["loss"]
    assert printed == (
        "in slices of 1,024 tokens",
        "3.0 GiB of logits at a time instead of 12.0 GiB, in training and in evaluation",
    )


def test_a_batch_of_one_slice_saves_nothing_and_says_so() -> None:
    printed = lines(plan_of(recipe("batch.max_per_device_batch_size=1")))["loss"]
    assert printed[1] == "a batch is one slice; 3.0 GiB of logits"
    shared = recipe("batch.max_per_device_batch_size=1", "strategy.sequence_parallel=2")
    assert lines(plan_of(shared))["loss"][1] == "a batch is one slice; 1.5 GiB of logits"


@pytest.mark.parametrize(
    ("strategy", "offload", "topology", "expected"),
    [
        ("ddp", False, GPUS, "adamw_torch_fused"),
        ("fsdp2", False, GPUS, "adamw_torch_fused"),
        ("fsdp2", True, GPUS, "adamw_torch"),
        ("zero3", False, GPUS, "adamw_torch_fused"),
        ("zero2", True, GPUS, "adamw_torch"),
        ("ddp", False, CPUS, "adamw_torch"),
    ],
)
def test_adamw_is_fused_where_the_parameters_are_on_gpus(
    strategy: str, offload: bool, topology: Topology, expected: str
) -> None:
    assert optimizer_of(recipe(strategy=strategy, offload=offload), topology) == expected
    assert lines(plan_of(recipe(strategy=strategy, offload=offload), topology))["optimizer"][0] == expected


def test_a_whole_step_is_made_ahead() -> None:
    batch = plan_of(recipe("batch.max_per_device_batch_size=4")).batch
    assert prefetch_depth(batch) == batch.gradient_accumulation_steps == 8
    assert "pinned" in lines(plan_of(recipe()))["batches"][1]
    assert "pinned" not in lines(plan_of(recipe(), CPUS))["batches"][1]


@pytest.mark.parametrize(("strategy", "printed"), [("fsdp2", "FSDP2 gathers"), ("zero2", "overlap_comm")])
def test_sharding_strategies_show_how_communication_overlaps(strategy: str, printed: str) -> None:
    assert printed in lines(plan_of(recipe(strategy=strategy)))["communication"][1]
    assert "communication" not in lines(plan_of(recipe()))


@pytest.mark.parametrize(
    ("settings", "strategy", "topology", "problem"),
    [
        (["model.kernels=liger"], "ddp", CPUS, "model.kernels liger needs a GPU"),
        (["model.kernels=liger", "model.compile=true"], "ddp", GPUS, "use one"),
        (["model.compile=true", *IN_4_BITS], "ddp", GPUS, "not proven with model.quantization"),
        (["model.compile=true"], "zero3", GPUS, "model.compile does not work with zero3"),
        (["model.compile=true", "model.attention=flex_attention"], "ddp", GPUS, "compiles itself"),
    ],
)
def test_settings_that_do_not_work_together_are_refused(
    settings: list[str], strategy: str, topology: Topology, problem: str
) -> None:
    (found,) = speed_problems(recipe(*settings, strategy=strategy), topology)
    assert problem in found


def test_gemfit_plan_shows_every_line_and_why(cli: Callable[..., Result]) -> None:
    shown = cli("plan", "gemma3/1b-reference", "--gpus", "2").output
    printed = json.loads(cli("plan", "gemma3/1b-reference", "--gpus", "2", "--json").stdout)["speed"]
    assert [line["what"] for line in printed] == [
        *("attention", "loss", "kernels", "compile", "optimizer", "batches")
    ]
    assert all(line["chosen"] in shown and line["because"] for line in printed)


def test_weights_in_4_bits_are_listed_with_what_they_save() -> None:
    chosen, because = lines(plan_of(recipe(*IN_4_BITS)))["frozen weights"]
    assert chosen == "nf4"
    assert because.endswith("0.3 GiB instead of 2.6")


@pytest.mark.parametrize("setting", ["model.kernels=liger", "model.compile=true"])
def test_either_setting_alone_is_allowed_on_gpus(setting: str) -> None:
    assert speed_problems(recipe(setting), GPUS) == []
