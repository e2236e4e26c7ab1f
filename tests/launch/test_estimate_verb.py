"""``gemfit estimate``: what fits a GPU, in which order, and why the rest does not."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.request import Request
from gemfit_launch.predict.gpu_specs import GPU_SPECS
from gemfit_launch.predict.model_shape import ModelShape
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
            >= asked.batch.global_batch_size
        )


def test_more_gpus_than_rows_are_no_way() -> None:
    assert estimates("gemma3/1b-reference", "h100-80", (128,)) == []


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
    assert "model states alone 432 GB, largest: moments 216 GB" in " ".join(output.split())


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
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    page = (root / "docs" / "scaling.md").read_text()
    assert len(rows) >= 40
    assert all(row in page for row in rows), "make it again: benchmarks/scaling_plan.py --out docs/scaling.md"
