"""``gemfit estimate``: what fits a GPU, in which order, and why the rest does not."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.request import Request
from gemfit_launch.predict.gpu_specs import GPU_SPECS
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.remedies import describe_excess
from gemfit_launch.predict.search import Estimate, best_of_each, estimate_all, smallest_changes
from gemfit_launch.predict.shape_lookup import find_shape

Cli = Callable[..., Result]


def estimates(name: str, gpu: str, counts: tuple[int, ...] = (1, 8)) -> list[Estimate]:
    recipe, shape = recipe_and_shape(name)
    return estimate_all(recipe, shape, GPU_SPECS[gpu], counts)


def recipe_and_shape(name: str) -> tuple[Recipe, ModelShape]:
    recipe = Request(name=name).recipe()
    shape = find_shape(recipe.model).shape
    assert shape is not None
    return recipe, shape


def test_those_that_fit_come_first_and_the_fastest_of_them_before_all() -> None:
    found = estimates("gemma3/4b", "h100-80")
    fits = [estimate.fits for estimate in found]
    assert True in fits
    assert False in fits
    assert fits == sorted(fits, reverse=True)
    speeds = [estimate.performance.tokens_per_second.middle for estimate in found if estimate.fits]
    assert speeds == sorted(speeds, reverse=True)


def test_every_strategy_is_looked_at_on_every_number_of_gpus() -> None:
    found = {estimate.key for estimate in estimates("gemma3/1b-reference", "h100-80", (1, 2))}
    labels = {"fsdp2", "fsdp2-shard-grad-op", "fsdp2+offload", "zero1", "zero2", "zero3"}
    assert {(label, gpus) for label in labels for gpus in (1, 2)} <= found
    assert ("single", 1) in found
    assert ("ddp", 2) in found
    assert ("ddp", 1) not in found


def test_what_is_trained_stays_the_same() -> None:
    asked: Recipe = Request(name="gemma3/4b-lora").recipe()
    for estimate in estimates("gemma3/4b-lora", "a100-40"):
        assert estimate.recipe.batch.global_batch_size == asked.batch.global_batch_size
        assert (estimate.recipe.model.lora, estimate.recipe.model.dtype) == (
            asked.model.lora,
            asked.model.dtype,
        )
        assert (estimate.recipe.data, estimate.recipe.optim) == (asked.data, asked.optim)
        assert (
            estimate.gpus
            * estimate.config.per_device_batch_size
            * estimate.config.gradient_accumulation_steps
            // estimate.degree
            >= asked.batch.global_batch_size
        )


@pytest.mark.parametrize("gpus", [128, 512])
def test_more_gpus_than_rows_share_rows(gpus: int) -> None:
    found = estimates("gemma3/27b", "h100-80", (gpus,))
    best = found[0]
    assert best.fits
    assert best.degree == gpus // 64
    assert (best.config.per_device_batch_size, best.config.gradient_accumulation_steps) == (1, 1)
    assert {one.degree for one in found} <= {2, 4, 8, 16, 32}


def test_more_gpus_than_rows_that_heads_can_share_have_no_work(cli: Cli) -> None:
    assert estimates("gemma3/1b-reference", "h100-80", (512,)) == []
    output = cli("estimate", "gemma3/1b-reference", "--gpu", "h100-80", "--gpus", "512").output
    assert "64 rows, each shared by 4 GPUs at most, are work for 256" in " ".join(output.split())


def test_rows_of_128k_fit_by_sharing_them_and_without_masks(cli: Cli) -> None:
    asked = ("estimate", "gemma3/27b", "--set", "data.seq_len=131072", "--gpu", "h200-141", "--gpus", "8")
    rows = json.loads(cli(*asked, "--json").stdout)
    best = rows[0]
    assert best["fits"]
    assert best["sequence_parallel"] > 1
    assert {row["attention"] for row in rows} == {"varlen"}, "masks of 16 GiB are no way"
    assert not [row for row in rows if row["fits"] and row["sequence_parallel"] == 1]
    argv = shlex.split(best["command"])
    plan = json.loads(cli(*argv[1:], "--json").stdout)
    assert plan["forecast"]["memory"]["gpu_bytes"] == best["memory"]["gpu_bytes"]
    assert plan["batch"]["sequence_parallel"] == best["sequence_parallel"]


def test_a_gpu_without_gradients_of_wide_heads_takes_flex_attention(cli: Cli) -> None:
    asked = ("estimate", "gemma3/1b", "--set", "data.seq_len=131072", "--gpu", "l40s-48", "--gpus", "8")
    assert {row["attention"] for row in json.loads(cli(*asked, "--json").stdout)} == {"flex_attention"}


def closest(
    name: str, gpu: str, gpus: int, label: str, *, degree: int = 1, **settings: object
) -> tuple[Estimate, ModelShape]:
    recipe = Request(
        name=name, settings=tuple(f"{k.replace('__', '.')}={v}" for k, v in settings.items())
    ).recipe()
    shape = find_shape(recipe.model).shape
    assert shape is not None
    found = estimate_all(recipe, shape, GPU_SPECS[gpu], (gpus,))
    of_label = [one for one in found if one.label == label and one.degree == degree]
    return min(of_label, key=lambda one: one.memory.gpu_bytes), shape


def test_activations_of_one_row_are_removed_by_sharing_it_or_by_shorter_rows() -> None:
    long: dict[str, Any] = {"data__seq_len": 131072, "model__attention": "flash_attention_2"}
    found = describe_excess(*closest("gemma3/27b", "h200-141", 64, "zero3", **long))
    assert found.startswith("activations ")
    assert found.endswith("strategy.sequence_parallel=2 or more, up to 32, or a shorter data.seq_len")
    assert "more GPUs" not in found


def test_more_gpus_are_not_named_where_each_holds_all_frozen_weights() -> None:
    adapters: dict[str, Any] = {"data__seq_len": 131072, "model__attention": "flash_attention_2"}
    found, shape = closest("gemma3/27b", "h100-80", 8, "zero1", degree=8, model__lora__rank=16, **adapters)
    assert not found.fits
    assert "more GPUs" not in describe_excess(found, shape)
    assert "a strategy that shards all of them over all GPUs" in describe_excess(found, shape)


def test_a_setting_that_keeps_rows_from_being_shared_is_named(cli: Cli) -> None:
    adapters = ("--set", "model.lora.rank=16", "--set", "model.lora.dropout=0.1")
    long_rows = ("--gpu", "h100-80", "--gpus", 8, "--set", "data.seq_len=131072")
    said = " ".join(cli("estimate", "gemma3/27b", *long_rows, *adapters).output.split())
    assert "activations 138 GB: strategy.sequence_parallel with model.lora.dropout=0, or a shorter" in said
    assert "strategy.sequence_parallel=" in cli("estimate", "gemma3/27b", *long_rows, *adapters[:2]).output


@pytest.mark.parametrize(
    ("label", "gpus", "change"),
    [
        ("zero3", 4, "more GPUs, up to 2048, or --offload, or LoRA"),
        (
            "zero1",
            64,
            "a strategy that shards all of them over all GPUs (fsdp2, zero3), or --offload, or LoRA",
        ),
        (
            "hsdp",
            64,
            "a strategy that shards all of them over all GPUs (fsdp2, zero3), or --offload, or LoRA",
        ),
        ("ddp", 64, "a strategy that shards all of them over all GPUs (fsdp2, zero3), or LoRA"),
    ],
)
def test_more_gpus_are_named_where_they_hold_the_states(label: str, gpus: int, change: str) -> None:
    gpu = "a100-40" if label == "hsdp" else "h100-80"
    found = describe_excess(*closest("gemma3/27b", gpu, gpus, label))
    assert found.startswith("model states ")
    assert found.endswith(change)


def test_more_gpus_are_not_named_where_the_batch_has_no_work_for_them() -> None:
    found = describe_excess(
        *closest("gemma3/27b", "l4-24", 1, "zero3", batch__global_batch_size=1, data__seq_len=31)
    )
    assert "more GPUs" not in found


def test_how_long_a_save_a_stop_and_a_resume_take_on_a_disk(cli: Cli) -> None:
    asked = ("estimate", "gemma3/27b", "--gpu", "h100-80", "--gpus", "64", "--disk", "2")
    row = json.loads(cli(*asked, "--json").stdout)[0]
    times, step = row["checkpoint"], row["time"]["step_seconds"]["slow"]
    assert times["save_seconds"] == pytest.approx(row["memory"]["checkpoint"] / 2e9)
    assert times["stop_seconds"] == pytest.approx(times["save_seconds"] + step)
    assert times["resume_seconds"] == times["save_seconds"]
    assert "324 GB at 2 GB/s: 162 s to save" in " ".join(cli(*asked).output.split())


@pytest.mark.parametrize(
    ("name", "gpu", "gpus", "label"),
    [
        ("gemma3/27b", "h100-80", 8, "ddp"),
        ("gemma3/27b", "h100-80", 1, "single"),
        ("gemma3/4b", "rtx-4090-24", 1, "single"),
        ("gemma3/12b", "a100-40", 8, "zero1"),
    ],
)
def test_model_states_larger_than_a_gpu_never_fit(name: str, gpu: str, gpus: int, label: str) -> None:
    found = [estimate for estimate in estimates(name, gpu, (gpus,)) if estimate.label == label]
    assert found
    assert not any(estimate.fits for estimate in found)
    assert all(estimate.memory.states_bytes > 10**9 for estimate in found)


def test_the_command_of_a_way_plans_that_way(cli: Cli) -> None:
    rows = json.loads(cli("estimate", "gemma3/4b", "--gpu", "h100-80", "--gpus", "1,8", "--json").stdout)
    firsts = {(row["strategy"], row["gpus"]): row for row in reversed(rows) if row["fits"]}
    assert len(firsts) >= 8
    for row in firsts.values():
        argv = shlex.split(row["command"])
        assert argv[:2] == ["gemfit", "plan"]
        result = cli(*argv[1:], "--json")
        assert result.exit_code == 0, result.output
        plan = json.loads(result.stdout)
        assert plan["batch"]["per_device_batch_size"] == row["per_device_batch_size"]
        assert plan["recipe"]["model"]["activation_checkpointing"] == row["activation_checkpointing"]
        assert plan["forecast"]["memory"]["gpu_bytes"] == row["memory"]["gpu_bytes"]
        assert plan["forecast"]["time"] == row["time"]
        assert not plan["forecast"]["warnings"]


def test_the_table_fits_a_page_and_explains_why_the_rest_does_not_fit(cli: Cli) -> None:
    output = cli("estimate", "gemma3/27b", "--gpu", "h100-80").output
    table = [line for line in output.splitlines() if not line.startswith("gemfit plan")]
    assert max(map(len, table)) <= 100
    assert "What does not fit" in output
    assert "single" in output
    assert "model states 432 GB: a strategy that shards all of them" in " ".join(output.split())


def test_a_handful_is_shown_unless_all_is_asked_for(cli: Cli) -> None:
    short, full = (
        cli("estimate", "gemma3/1b", "--gpu", "a100-80", *more).output for more in ((), ("--all",))
    )
    assert len(short.splitlines()) < 40 < len(full.splitlines())


def test_a_node_with_too_little_memory_rules_offload_out(cli: Cli) -> None:
    asked = ("estimate", "gemma3/12b", "--gpu", "h100-80", "--gpus", "2", "--strategy", "zero2", "--json")
    free, bounded = (json.loads(cli(*asked, *more).stdout) for more in ((), ("--host-memory", 64)))
    assert any(row["fits"] for row in free if row["strategy"] == "zero2+offload")
    assert not any(row["fits"] for row in bounded if row["strategy"] == "zero2+offload")


def test_only_the_strategies_that_are_named_are_looked_at(cli: Cli) -> None:
    asked = ("estimate", "gemma3/1b", "--gpu", "h100-80", "--strategy", "zero3", "--json")
    assert {row["strategy"] for row in json.loads(cli(*asked).stdout)} == {"zero3", "zero3+offload"}


def test_that_nothing_fits_is_reported(cli: Cli) -> None:
    output = cli(
        "estimate", "gemma3/27b", "--gpu", "rtx-4090-24", "--gpus", "1", "--strategy", "zero2"
    ).output
    assert "Nothing fits on these numbers of GPUs" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gemma3/1b", "--gpu", "h1000-80"), "no such GPU; did you mean 'h100-80'"),
        (
            ("gemma3/1b", "--gpu", "h100-80", "--gpus", "1,x"),
            "--gpus 1,x: write numbers such as 1,2,8, or all",
        ),
        (
            ("gemma3/1b", "--gpu", "h100-80", "--set", "model.id=a/b"),
            "there is no config.json of a/b in",
        ),
    ],
)
def test_a_mistake_is_reported_with_the_way_out(arguments: tuple[str, ...], message: str, cli: Cli) -> None:
    result = cli("estimate", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_smallest_change_is_none_where_a_recipe_fits_and_never_offload_where_less_will_do() -> None:
    recipe, shape = recipe_and_shape("gemma3/12b")
    (same,) = smallest_changes(recipe, shape, GPU_SPECS["h100-80"], 8)
    assert same.options(recipe) == ["--gpus", "8"]
    (less,) = smallest_changes(recipe, shape, GPU_SPECS["a100-40"], 16)
    assert not less.offloads


def test_the_best_of_each_keeps_the_order() -> None:
    found = estimates("gemma3/1b-reference", "h100-80")
    best = best_of_each(found)
    assert [estimate for estimate in found if estimate in best] == best
    assert len({estimate.key for estimate in best}) == len(best)


def test_the_tables_of_the_page_on_scaling_are_what_is_predicted_now() -> None:
    root = Path(__file__).parents[2]
    argv = [sys.executable, str(root / "benchmarks" / "scaling_plan.py")]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    page = (root / "docs" / "scaling.md").read_text()
    assert len(rows) >= 40
    assert all(row in page for row in rows), "make it again: benchmarks/scaling_plan.py --out docs/scaling.md"
