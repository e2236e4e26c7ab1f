"""Time: operations and bytes by hand-made sums, and what must be faster than what."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from gemfit.schemas.recipe_model import Lora
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single, Strategy
from gemfit_launch.predict import flops
from gemfit_launch.predict.communication import communication_volume
from gemfit_launch.predict.configuration import Configuration
from gemfit_launch.predict.gpu_specs import GPU_SPECS
from gemfit_launch.predict.model_state_memory import place_model_states
from gemfit_launch.predict.performance import Performance, Range, predict_performance
from gemfit_launch.predict.shape_lookup import shipped_shapes

Cli = Callable[..., Result]
H100 = GPU_SPECS["h100-80"]
B1, B27 = (shipped_shapes()[f"google/gemma-3-{size}-it"] for size in ("1b", "27b"))


def config(strategy: Strategy, world_size: int = 1, **different: Any) -> Configuration:
    values: dict[str, Any] = {
        "shape": B1,
        "lora": None,
        "dtype": "bfloat16",
        "strategy": strategy,
        "world_size": world_size,
        "ranks_per_node": min(world_size, 8),
        "per_device_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "seq_len": 1024,
        "activation_checkpointing": True,
        "attention": "sdpa",
    }
    return Configuration(**(values | different))


def performance(made: Configuration) -> Performance:
    tokens = made.world_size * made.gradient_accumulation_steps * made.tokens
    return predict_performance(made, H100, tokens_per_step=tokens)


def test_a_token_costs_six_operations_a_parameter_and_its_attention() -> None:
    made = config(Single())
    matrices = B1.num_layers * B1.linear_parameters + B1.embedding_parameters
    attention = flops.model_flops(made, with_embedding=True) - 6 * matrices
    assert attention == 3 * flops.attention_forward(made)
    assert matrices == pytest.approx(B1.parameters, rel=0.001)
    without = flops.model_flops(made, with_embedding=False)
    assert flops.model_flops(made, with_embedding=True) - without == 6 * B1.embedding_parameters


def test_a_window_saves_attention_in_sliding_layers_only() -> None:
    made = config(Single())
    windowless = 4 * B1.num_layers * (1024 + 1) / 2 * B1.num_heads * B1.head_dim
    seen_in_window = 512 - 512 * 511 / 2048
    with_window = (22 * seen_in_window + 4 * (1024 + 1) / 2) * 4 * B1.num_heads * B1.head_dim
    assert flops.attention_forward(made) == pytest.approx(with_window)
    assert with_window < windowless


def test_recomputation_adds_a_forward_pass_of_the_layers() -> None:
    recomputed, stored = (
        flops.hardware_flops(config(Single(), activation_checkpointing=value)) for value in (True, False)
    )
    made = config(Single())
    assert recomputed - stored == flops.layer_forward(made) + flops.attention_forward(made)


def test_frozen_weights_need_no_gradient() -> None:
    lora = flops.model_flops(config(Single(), lora=Lora()), with_embedding=True)
    assert lora == pytest.approx(flops.model_flops(config(Single()), with_embedding=True) * 2 / 3, rel=0.05)


def test_volumes_are_those_of_rings() -> None:
    ring, parameters = 7 / 8, B1.parameters
    ddp, fsdp, gathered = (
        communication_volume(config(s, 8)) for s in (Ddp(), Fsdp(), Fsdp(reshard_after_forward=False))
    )
    assert ddp.between_ranks == 2 * ring * 4 * parameters
    assert fsdp.gather == pytest.approx(2 * 2 * ring * 2 * parameters), (
        "forward and backward, two gradient accumulation steps"
    )
    assert fsdp.reduce == pytest.approx(2 * ring * 4 * parameters), "float32, after each backward pass"
    assert gathered.gather == fsdp.gather / 2
    zero2 = communication_volume(config(DeepSpeed(stage=2), 8))
    assert zero2.reduce == pytest.approx(2 * ring * 4 * parameters), "float32, after each backward pass"


def test_copies_gather_among_themselves_and_average_their_gradients_once_per_step() -> None:
    parameters = B1.parameters
    hsdp = communication_volume(config(Fsdp(replicate="node"), 32))
    one_node = communication_volume(config(Fsdp(), 8))
    assert (hsdp.gather, hsdp.reduce, hsdp.collectives) == (
        one_node.gather,
        one_node.reduce,
        one_node.collectives,
    )
    assert hsdp.replicas == pytest.approx(2 * 3 / 4 * 4 * parameters / 8), (
        "an all-reduce of one shard, four copies"
    )
    assert one_node.replicas == 0


def test_copies_hold_the_states_of_one_node_and_are_faster_over_many() -> None:
    def of(strategy: Strategy, world: int) -> Configuration:
        return config(strategy, world, shape=B27, per_device_batch_size=1)

    hsdp, fsdp, one_node = of(Fsdp(replicate="node"), 512), of(Fsdp(), 512), of(Fsdp(), 8)
    assert place_model_states(hsdp).gpu == place_model_states(one_node).gpu
    hsdp, fsdp = (replace(made, gradient_accumulation_steps=8) for made in (hsdp, fsdp))
    assert performance(hsdp).step_seconds.middle < performance(fsdp).step_seconds.middle


@pytest.mark.parametrize(("degree", "repeats"), [(2, 1), (16, 1), (32, 2)])
def test_ranks_that_share_rows_exchange_heads_in_every_layer(degree: int, repeats: int) -> None:
    made = config(Fsdp(sequence_parallel=degree), 32, shape=B27, per_device_batch_size=1, seq_len=32768)
    moved = communication_volume(made)
    a_layer = (2 * 32 + 2 * 16 * repeats) * 128 * 2 * 32768 / degree * (degree - 1) / degree
    passes = 3 * 2  # forward, again and backward, two gradient accumulation steps
    assert moved.exchange == pytest.approx(a_layer * B27.num_layers * passes)
    assert moved.exchanges == 2 * B27.num_layers * passes
    assert communication_volume(config(Fsdp(), 32, shape=B27)).exchange == 0


def test_sharing_rows_over_nodes_is_slower_than_inside_one() -> None:
    inside, across = (
        performance(config(Fsdp(sequence_parallel=8), 8, shape=B27, seq_len=32768, ranks_per_node=ranks))
        for ranks in (8, 4)
    )
    assert inside.step_seconds.middle < across.step_seconds.middle


def test_one_gpu_communicates_nothing() -> None:
    assert communication_volume(config(Single())).between_ranks == 0
    assert communication_volume(config(Fsdp())).between_ranks == 0


@given(
    world=st.sampled_from([1, 2, 8, 16, 64]),
    rows=st.sampled_from([1, 4, 8]),
    strategy=st.sampled_from([Fsdp(), Fsdp(offload=True), DeepSpeed(stage=2), DeepSpeed(stage=3)]),
)
def test_a_range_is_one_and_no_gpu_is_faster_than_its_peak(world: int, rows: int, strategy: Strategy) -> None:
    found = performance(config(strategy, world, per_device_batch_size=rows))
    assert found.step_seconds.slow > found.step_seconds.fast > 0
    assert found.tokens_per_second.slow < found.tokens_per_second.fast
    assert 0 < found.mfu.slow < found.mfu.fast < 0.65
    assert found.mfu_without_embedding.fast < found.mfu.fast


def test_offload_is_slower_and_a_faster_gpu_is_faster() -> None:
    here, away = (performance(config(Fsdp(offload=value), 8)).step_seconds for value in (False, True))
    assert away.fast > here.slow
    slower = predict_performance(config(Fsdp(), 8), GPU_SPECS["a100-80"], tokens_per_step=1)
    assert slower.step_seconds.middle > here.middle


def test_leaving_a_node_costs_time_where_much_is_moved() -> None:
    inside, across = (performance(config(Fsdp(), 8, shape=B27, ranks_per_node=ranks)) for ranks in (8, 1))
    assert across.step_seconds.slow > inside.step_seconds.slow
    assert across.compute_seconds == inside.compute_seconds


def test_the_middle_lies_between() -> None:
    assert Range(slow=2.0, fast=1.0).middle == pytest.approx(4 / 3)


def test_a_plan_shows_hours_and_cost_and_their_reliability(cli: Cli) -> None:
    asked = ("plan", "gemma3/4b", "--gpus", 8, "--gpu", "h100-80", "--price", "2.5")
    plan = json.loads(cli(*asked, "--json").stdout)
    bill, time = plan["forecast"]["cost"], plan["forecast"]["time"]
    hours = time["step_seconds"]["slow"] * plan["steps"]["total"] / 3600
    assert bill["hours"]["slow"] == pytest.approx(hours)
    assert bill["cost"]["slow"] == pytest.approx(hours * 8 * 2.5)
    output = cli(*asked).output
    assert "cost" in output
    assert "trust it to a factor of two" in " ".join(output.split())
