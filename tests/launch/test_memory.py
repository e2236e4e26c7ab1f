"""Memory: what each strategy keeps, what a step needs, and what a plan says about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from gemfit.schemas.recipe_model import Lora, Quantization
from gemfit.schemas.recipe_training import CheckpointRecipe
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single, Strategy
from gemfit_launch.predict import activation_memory
from gemfit_launch.predict.activation_memory import LOSS_SLICE_TOKENS, layer_bytes, logits_bytes
from gemfit_launch.predict.configuration import Configuration
from gemfit_launch.predict.gpu_specs import GPU_SPECS, guess_gpu
from gemfit_launch.predict.memory import Memory, gigabytes, predict_memory
from gemfit_launch.predict.model_state_memory import ModelStates, place_model_states
from gemfit_launch.predict.shape_lookup import shipped_shapes

EXAMPLES = Path(__file__).parents[2] / "examples" / "conversations.jsonl"

Cli = Callable[..., Result]
SHAPES = shipped_shapes()
B27 = SHAPES["google/gemma-3-27b-it"]
SHARDED: list[Strategy] = [Fsdp(), DeepSpeed(stage=1), DeepSpeed(stage=2), DeepSpeed(stage=3)]


def config(strategy: Strategy, world_size: int = 1, **different: Any) -> Configuration:
    """The 1b as its recipe has it, four rows per rank."""
    values: dict[str, Any] = {
        "shape": SHAPES["google/gemma-3-1b-it"],
        "lora": None,
        "dtype": "bfloat16",
        "strategy": strategy,
        "world_size": world_size,
        "ranks_per_node": min(world_size, 8),
        "per_device_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "seq_len": 1024,
        "activation_checkpointing": True,
        "attention": "sdpa",
    }
    return Configuration(**(values | different))


def memory(strategy: Strategy, world_size: int = 1, **different: Any) -> Memory:
    return predict_memory(config(strategy, world_size, **different), CheckpointRecipe())


QLORA: dict[str, Any] = {"lora": Lora(), "quantization": Quantization()}


@pytest.mark.parametrize("strategy", [Single(), *SHARDED, Fsdp(offload=True)])
def test_matrices_in_4_bits_take_an_eighth_of_float32_and_their_scales(strategy: Strategy) -> None:
    ranks = 1 if isinstance(strategy, Single) else 8
    made = config(strategy, ranks, shape=B27, **QLORA)
    matrices = B27.num_layers * B27.linear_parameters
    elsewhere = B27.parameters - matrices
    assert made.scale_bytes == pytest.approx(matrices * 0.127 / 8, rel=0.01)
    placed = place_model_states(made)
    shards = ranks if strategy in (Fsdp(), Fsdp(offload=True), DeepSpeed(stage=3)) else 1
    frozen = (matrices / 2 + 2 * elsewhere) / shards + made.scale_bytes
    parameters = placed.gpu.parameters + placed.host.parameters
    adapters = made.trained * (2 if isinstance(strategy, DeepSpeed) else 4) / shards
    assert parameters == pytest.approx(frozen + adapters, rel=1e-3)


def test_fused_modules_keep_less_of_a_layer() -> None:
    plain, fused = config(Fsdp(), 8), config(Fsdp(), 8, kernels="liger")
    made = plain.shape
    norms = 6 * (
        made.norms_per_layer * made.hidden_size + (made.num_heads + made.num_kv_heads) * made.head_dim
    )
    saved = norms + 2 * made.intermediate_size  # eight bytes of a norm become two, four of GeGLU three
    assert layer_bytes(plain) - layer_bytes(fused) == plain.tokens * saved


def test_scales_in_full_take_four_times_as_much() -> None:
    once = config(Single(), lora=Lora(), quantization=Quantization(double=False))
    twice = config(Single(), **QLORA)
    assert once.scale_bytes == pytest.approx(4 * twice.scale_bytes, rel=0.1)


def test_a_27b_in_4_bits_fits_a_gpu_of_40_gb_and_not_without() -> None:
    assert memory(Single(), shape=B27, **QLORA).gpu_bytes < GPU_SPECS["a100-40"].usable_bytes
    assert memory(Single(), shape=B27, lora=Lora()).gpu_bytes > 1.5 * GPU_SPECS["a100-40"].usable_bytes


def test_a_27b_on_one_gpu_needs_432_gb_for_its_states_alone() -> None:
    alone = memory(Single(), shape=B27)
    assert gigabytes(alone.states_bytes) == "432 GB"
    assert alone.largest.name == "moments"


def test_ddp_keeps_sixteen_bytes_a_parameter_as_one_gpu_does() -> None:
    parameters = config(Single()).trained
    assert place_model_states(config(Single())).gpu.total == 16 * parameters
    assert place_model_states(config(Ddp(), 8)).gpu.total == 16 * parameters


def test_fsdp2_keeps_gradients_sharded_during_gradient_accumulation() -> None:
    one, two = (place_model_states(config(Fsdp(), 8, gradient_accumulation_steps=n)).gpu for n in (1, 2))
    assert one.gradients == pytest.approx(4 * config(Fsdp(), 8).trained / 8, rel=0.01)
    assert one == two


@given(world=st.sampled_from([2, 3, 8, 64, 500]), strategy=st.sampled_from(SHARDED))
def test_shards_together_are_never_less_than_the_whole(world: int, strategy: Strategy) -> None:
    made = config(strategy, world)
    placed = place_model_states(made).gpu
    assert placed.moments * world >= 8 * made.trained
    assert placed.moments * world <= 8 * made.trained * 1.2


@pytest.mark.parametrize("strategy", SHARDED)
def test_more_ranks_never_need_more_states(strategy: Strategy) -> None:
    sizes = [place_model_states(config(strategy, world)).gpu.total for world in (1, 2, 4, 8, 64)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_moves_states_to_the_host_and_loses_none(stage: Any) -> None:
    here = place_model_states(config(DeepSpeed(stage=stage), 8))
    away = place_model_states(
        config(DeepSpeed(stage=stage, offload_optimizer=True, offload_params=stage == 3), 8)
    )
    assert here.host == ModelStates()
    assert away.gpu.moments == away.gpu.masters == 0
    assert (away.host.moments, away.host.masters) == (here.gpu.moments, here.gpu.masters)


@pytest.mark.parametrize("strategy", [Single(), *SHARDED])
def test_lora_keeps_optimizer_states_of_the_adapters_alone(strategy: Strategy) -> None:
    lora = config(strategy, lora=Lora(rank=16))
    assert lora.trained < 0.02 * config(strategy).trained
    assert place_model_states(lora).gpu.moments < 0.02 * place_model_states(config(strategy)).gpu.moments


@pytest.mark.parametrize("strategy", [Single(), *SHARDED])
def test_copies_of_embeddings_are_trained_next_to_the_frozen_ones(strategy: Strategy) -> None:
    plain, whole = (
        config(strategy, lora=Lora(modules_to_save=names)) for names in ((), ("embed_tokens", "lm_head"))
    )
    copy = plain.shape.embedding_parameters
    assert whole.trained == plain.trained + copy, "they share a weight"
    assert whole.base_elements == plain.base_elements
    before, after = (place_model_states(made).gpu for made in (plain, whole))
    assert after.moments - before.moments == pytest.approx(8 * copy)
    assert after.parameters - before.parameters == (2 if isinstance(strategy, DeepSpeed) else 4) * copy


def test_dora_trains_a_magnitude_of_each_output_and_saves_outputs_twice() -> None:
    plain, dora = (config(Single(), lora=Lora(targets="all-linear", use_dora=use)) for use in (False, True))
    outputs = sum(outputs for _, outputs in plain.shape.linear_shapes.values())
    assert dora.trained - plain.trained == outputs * plain.shape.num_layers
    assert layer_bytes(dora) - layer_bytes(plain) == 2 * 2 * outputs * plain.tokens
    assert activation_memory.dora_bytes(dora) > activation_memory.dora_bytes(plain) == 0


@pytest.mark.parametrize("strategy", [Single(), *SHARDED])
def test_frozen_weights_are_held_in_the_compute_dtype(strategy: Strategy) -> None:
    lora = config(strategy, 1 if isinstance(strategy, Single) else 8, lora=Lora(rank=16))
    sharded = isinstance(strategy, Fsdp) or (isinstance(strategy, DeepSpeed) and strategy.stage == 3)
    ranks = lora.world_size if sharded else 1
    frozen = lora.compute_bytes * lora.base_elements / ranks
    adapters = (2 if isinstance(strategy, DeepSpeed) else 4) * lora.trained / ranks
    assert place_model_states(lora).gpu.parameters == pytest.approx(frozen + adapters, rel=0.01)


def test_logits_exist_a_slice_at_a_time() -> None:
    two, four = (logits_bytes(config(Single(), per_device_batch_size=rows)) for rows in (2, 4))
    assert two == four == LOSS_SLICE_TOKENS * 262_144 * 12
    assert logits_bytes(config(Single(), per_device_batch_size=1, seq_len=512)) == two // 2


def test_eager_attention_keeps_all_scores_and_sdpa_does_not() -> None:
    eager, sdpa = (
        [layer_bytes(config(Single(), attention=name, seq_len=n)) / n for n in (1024, 2048)]
        for name in ("eager", "sdpa")
    )
    scores = (4 + 2) * 4 * 1024 * 4  # float32 and bfloat16, four heads, four rows
    assert eager[1] - eager[0] == pytest.approx(scores)
    assert sdpa[1] - sdpa[0] < scores / 10


def test_recomputation_costs_less_memory_than_keeping_activations() -> None:
    recomputed, stored = (
        memory(Single(), activation_checkpointing=value).gpu_bytes for value in (True, False)
    )
    assert recomputed < 0.7 * stored


def test_what_is_shown_is_what_is_summed() -> None:
    made = memory(Fsdp(offload=True), 8)
    assert made.gpu_bytes == sum(part.bytes for part in made.gpu)
    assert len(made.explain()) == len(made.gpu)
    assert made.explain()[0].startswith(gigabytes(made.largest.bytes))


def test_a_checkpoint_is_twelve_bytes_a_trained_parameter() -> None:
    made = memory(Ddp(), 8)
    assert made.checkpoint == 12 * config(Ddp()).trained
    assert made.disk_bytes == (3 + 1 + 1) * made.checkpoint, "three, the best, and the one being written"


def test_an_asynchronous_save_is_spread_over_the_ranks() -> None:
    copies = {
        world: next(p.bytes for p in memory(Ddp(), world).host_rank if p.name == "checkpoint copy")
        for world in (1, 8)
    }
    assert copies[1] == pytest.approx(8 * copies[8], rel=1e-6)


def test_only_gguf_has_the_whole_model_on_the_host_while_it_is_loaded() -> None:
    usual, gguf = (memory(Fsdp(), 8, read_whole=value).loading_rank for value in (False, True))
    assert gguf == 4 * SHAPES["google/gemma-3-1b-it"].parameters
    assert usual < gguf / 3


@pytest.mark.parametrize(
    ("kind", "gpu"),
    [
        ("h100", "h100-80"),
        ("nvidia_h100_pcie", "h100-pcie-80"),
        ("a100", "a100-40"),
        ("nvidia_a100-sxm4-80gb", "a100-80"),
        ("NVIDIA_A10G", "a10g-24"),
        ("rtx4090", "rtx-4090-24"),
        ("l40s", "l40s-48"),
        ("NVIDIA H100 80GB HBM3", "h100-80"),
        ("NVIDIA H100 NVL", "h100-nvl-94"),
        ("NVIDIA H200", "h200-141"),
        ("NVIDIA H200 NVL", "h200-nvl-141"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA A100-SXM-64GB", "a100-40"),
        ("NVIDIA H100 64GB", None),
        ("NVIDIA GeForce RTX 4090", "rtx-4090-24"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("nvidia_h100_80gb_hbm3_1g.10gb", None),
        ("a100_3g.20gb", None),
        ("h100.mig", None),
        ("h100_mig", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H20", None),
        ("NVIDIA A10", None),
        ("v100", None),
        (None, None),
    ],
)
def test_a_site_names_its_gpu_as_slurm_does(kind: str | None, gpu: str | None) -> None:
    found = guess_gpu(kind)
    assert (found.name if found else None) == gpu


def test_every_gpu_has_the_memory_in_its_name() -> None:
    assert len(GPU_SPECS) >= 10
    assert all(gpu.memory_bytes == int(name.rpartition("-")[2]) * 10**9 for name, gpu in GPU_SPECS.items())


def test_a_plan_that_does_not_fit_names_the_smallest_changes_that_would(cli: Cli) -> None:
    output = cli("plan", "gemma3/27b", "--gpus", 4, "--gpu", "h100-80").output
    said = " ".join(output.split())
    assert "warning: 145 GB are predicted per GPU" in said
    assert "--gpus 4 --strategy zero2 --offload is predicted to need" in said
    assert "or --gpus 8 is predicted to need" in said


def test_the_change_that_a_plan_names_does_away_with_the_warning(cli: Cli) -> None:
    asked = ("plan", "gemma3/27b", "--gpu", "h100-80", "--json")
    assert json.loads(cli(*asked, "--gpus", 4).stdout)["forecast"]["warnings"]
    for change in (("--gpus", 4, "--strategy", "zero2", "--offload"), ("--gpus", 8)):
        assert not json.loads(cli(*asked, *change).stdout)["forecast"]["warnings"]


def test_a_site_with_a_known_gpu_warns_without_the_option(cli: Cli) -> None:
    asked = ("plan", "gemma3/27b", "--site", "gpu-cluster", "--nodes", 1, "--data", EXAMPLES)
    result = cli(*asked, "--set", "batch.max_per_device_batch_size=16", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert any("are predicted per GPU" in warning for warning in plan["warnings"])
    assert plan["forecast"]["gpu"]["name"] == "h100-80"


def test_an_unknown_model_is_reported_once_and_planned(cli: Cli) -> None:
    output = cli("plan", "gemma3/1b-reference", "--set", "model.id=someone/else", "--gpus", 8).output
    assert output.count("Memory and time are unknown") == 1
    assert "Command" in output


def test_on_cpus_nothing_is_predicted(cli: Cli) -> None:
    assert "predicted" not in cli("plan", "debug/cpu-tiny", "--nproc", 2).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nproc", 2, "--device", "cpu", "--gpu", "h100-80"), "--gpu h100-80 has no effect on CPUs"),
        (("--gpus", 8, "--gpu", "h100"), "no such GPU; did you mean"),
        (("--gpus", 8, "--price", 2), "--price 2 has no effect: the kind of GPU is unknown"),
    ],
)
def test_an_option_without_effect_is_refused(options: tuple[object, ...], message: str, cli: Cli) -> None:
    result = cli("plan", "gemma3/1b-reference", *options)
    assert result.exit_code == 2
    assert message in result.stderr


STATES = ("ddp:2:bfloat16:full", "fsdp2:2:bfloat16:qlora", "zero3:2:float32:full")
PEAK = "270m:4:1024:autocast:recompute:sdpa"
PEAKS_OF_SHARED_ROWS = [f"270m:1:2048:bfloat16:keep:sdpa:full:{degree}" for degree in (1, 2, 4)]


@pytest.fixture(scope="module")
def states(measure: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    found = measure("tests/memory/states.py", "--cases", *STATES, timeout_seconds=500)
    return {result["case"]: result for result in found}


@pytest.fixture(scope="module")
def peaks(measure: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    cases = (PEAK, *PEAKS_OF_SHARED_ROWS)
    found = measure("tests/memory/peaks.py", "--cases", *cases, timeout_seconds=500)
    return {result["case"]: result for result in found}


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("case", STATES)
def test_engines_keep_what_is_predicted_within_five_per_cent(
    case: str, states: dict[str, dict[str, Any]]
) -> None:
    assert abs(states[case]["difference"]) < 0.05
    assert abs(states[case]["buckets"]) < 0.05


@pytest.mark.slow
def test_a_step_of_the_real_270m_on_fake_tensors_needs_what_is_predicted(
    peaks: dict[str, dict[str, Any]],
) -> None:
    assert abs(peaks[PEAK]["difference"]) < 0.05


@pytest.mark.slow
def test_ranks_that_share_rows_need_what_is_predicted_within_ten_per_cent(
    peaks: dict[str, dict[str, Any]],
) -> None:
    results = [peaks[case] for case in PEAKS_OF_SHARED_ROWS]
    assert [abs(result["difference"]) < 0.10 for result in results] == [True] * 3
    measured = [result["measured"] for result in results]
    assert measured[0] > 1.2 * measured[1] > 1.44 * measured[2], "sharing rows was measured"


@pytest.mark.parametrize("degree", [2, 4])
def test_activations_are_divided_and_masks_are_not(degree: int) -> None:
    whole, shared = (
        config(Ddp(sequence_parallel=n), 4, seq_len=8192, attention="flash_attention_2") for n in (1, degree)
    )
    assert activation_memory.checkpoint_bytes(shared) * degree == activation_memory.checkpoint_bytes(whole)
    assert activation_memory.layer_bytes(shared) < 1.3 * activation_memory.layer_bytes(whole) / degree
    masked = [replace(made, attention="sdpa") for made in (whole, shared)]
    assert len({activation_memory.mask_bytes(made) for made in masked}) == 1
    assert activation_memory.mask_bytes(masked[0]) > 0
