"""What planning says of sequence parallelism: arithmetic, refusals with what works, warnings."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from gemfit.errors import UserError
from gemfit.schemas.head_division import fitting_degrees, key_value_repeats
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit.summary.plan import hyperparameters
from gemfit_launch.cli import main
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.request import Request
from gemfit_launch.predict.shape_lookup import shipped_shapes

PACK = PackReference(fingerprint="0" * 32, folder="/packs/0")
TWO = "strategy.sequence_parallel=2"


def plan_of(*settings: str, name: str = "gemma3/27b", gpus: int = 8, per_node: int = 8) -> Plan:
    topology = Topology(nodes=gpus // per_node, ranks_per_node=per_node, device="cuda")
    recipe = Request(name=name, settings=settings).recipe()
    return make_plan(recipe, topology=topology, pack=PACK, rows=9766, rows_are_packed=True)


def test_the_refusal_of_128_gpus_names_the_degree_with_which_they_train_64_rows() -> None:
    plan = CliRunner().invoke(main, ["plan", "gemma3/27b", "--gpus", "128"])
    assert plan.exit_code == 2
    assert "strategy.sequence_parallel=2 lets 2 ranks share each row" in plan.output
    with_it = CliRunner().invoke(main, ["plan", "gemma3/27b", "--gpus", "128", "--set", TWO])
    assert with_it.exit_code == 0, with_it.output
    assert "64 groups of 2 ranks that share each row" in with_it.output


@pytest.mark.parametrize(("gpus", "degree"), [(128, 2), (512, 8), (1024, 16)])
def test_more_gpus_than_rows_train_the_reference_batch(gpus: int, degree: int) -> None:
    plan = plan_of(f"strategy.sequence_parallel={degree}", gpus=gpus)
    batch = plan.batch
    assert (batch.global_batch_size, batch.data_ranks, batch.idle) == (64, 64, 0)
    assert batch.gradient_accumulation_steps == 1
    assert plan.accelerate["num_processes"] == gpus
    assert plan.steps == plan_of().steps


def test_reports_and_model_cards_say_how_many_ranks_share_a_row() -> None:
    whole, shared = (dict(hyperparameters(plan_of(*settings)))["split into"] for settings in ((), (TWO,)))
    assert whole == "4 per rank x 8 ranks x 2 gradient accumulation steps"
    assert shared == ("4 per group x 4 groups of 2 ranks that share each row x 4 gradient accumulation steps")


def test_the_training_identity_does_not_know_the_degree() -> None:
    assert plan_of(TWO).training_identity() == plan_of().training_identity()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_counts_every_rank_of_a_group(stage: int) -> None:
    plan = plan_of(f"strategy=zero{stage}", TWO)
    assert plan.deepspeed is not None
    counted = plan.deepspeed["train_micro_batch_size_per_gpu"] * plan.batch.gradient_accumulation_steps * 8
    assert plan.deepspeed["train_batch_size"] == counted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("strategy.sequence_parallel=3",), r"32 query heads do not divide by it; use 1, 2, 4, 8, 16, 32"),
        (("strategy.sequence_parallel=3",), r"8 ranks do not divide into groups of 3; use a multiple of 3"),
        ((TWO, "data.seq_len=1023"), r"data.seq_len is 1023, .* set data.seq_len to 1024"),
        ((TWO, "model.compile=true"), r"model.compile is not proven with strategy.sequence_parallel"),
        ((TWO, "model.lora.dropout=0.1"), r"model.lora.dropout is 0.1, .* set model.lora.dropout to 0"),
        (("strategy=single", TWO), r"strategy.sequence_parallel: "),
        (("strategy.sequence_parallel=0",), r"strategy.sequence_parallel: "),
    ],
)
def test_what_does_not_work_is_refused_with_what_does(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(*settings)


@pytest.mark.parametrize(("name", "degrees"), [("1b", 3), ("4b", 4), ("12b", 5), ("27b", 6)])
def test_each_shipped_model_divides_by_powers_of_two(name: str, degrees: int) -> None:
    for degree in (2**power for power in range(degrees)):
        plan_of(f"strategy.sequence_parallel={degree}", name=f"gemma3/{name}", gpus=64)
    with pytest.raises(UserError, match="query heads do not divide"):
        plan_of(f"strategy.sequence_parallel={2**degrees}", name=f"gemma3/{name}", gpus=64)


def test_key_value_heads_are_repeated_only_as_often_as_they_must_be() -> None:
    for shape in shipped_shapes().values():
        for degree in fitting_degrees(shape.num_heads):
            repeats = key_value_repeats(shape.num_kv_heads, degree)
            assert shape.num_kv_heads * repeats % degree == 0
            assert shape.num_heads % (shape.num_kv_heads * repeats) == 0, (
                "each serves whole groups of queries"
            )
            assert (repeats == 1) == (shape.num_kv_heads % degree == 0)


def test_groups_that_span_nodes_are_warned_of() -> None:
    assert not any("span nodes" in warning for warning in plan_of("strategy.sequence_parallel=8").warnings)
    spanning = plan_of("strategy.sequence_parallel=16", gpus=16)
    assert any("over 8 ranks per node: some groups span nodes" in warning for warning in spanning.warnings)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masks_of_very_long_rows_are_refused_and_attention_without_them_is_not(attention: str) -> None:
    long = ("data.seq_len=131072", "batch.max_per_device_batch_size=1", TWO)
    with pytest.raises(
        UserError, match=r"1 x 131,072 x 131,072 = 16 GiB, .* use flash_attention_2, .* which need"
    ):
        plan_of(f"model.attention={attention}", *long)
    for other in ("flash_attention_2", "flash_attention_3", "flex_attention"):
        assert plan_of(f"model.attention={other}", *long).batch.seq_len == 131072


def test_masks_of_several_long_rows_are_refused_with_fewer_rows() -> None:
    rows = "batch.max_per_device_batch_size=4"
    with pytest.raises(UserError, match=r"4 x 65,536 .* or a smaller batch.max_per_device_batch_size or a"):
        plan_of("model.attention=sdpa", "data.seq_len=65536", rows)
    assert plan_of("model.attention=sdpa", "data.seq_len=65536", "batch.max_per_device_batch_size=2")
