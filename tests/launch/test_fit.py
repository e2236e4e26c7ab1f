"""``gemfit fit``: what fits a card, in which order, and why the rest does not."""

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
from gemfit_launch.predict.architecture import Architecture
from gemfit_launch.predict.gpu_specs import CARDS
from gemfit_launch.predict.model_shapes import find_architecture
from gemfit_launch.predict.search import Candidate, best_of_each, candidates, smallest_changes

Cli = Callable[..., Result]


def ways(name: str, card: str, counts: tuple[int, ...] = (1, 8)) -> list[Candidate]:
    recipe, architecture = known(name)
    return candidates(recipe, architecture, CARDS[card], counts)


def known(name: str) -> tuple[Recipe, Architecture]:
    recipe = Request(name=name).recipe()
    architecture = find_architecture(recipe.model).architecture
    assert architecture is not None
    return recipe, architecture


def test_those_that_fit_come_first_and_the_fastest_of_them_before_all() -> None:
    found = ways("gemma3/4b", "h100-80")
    fits = [way.fits for way in found]
    assert True in fits
    assert False in fits
    assert fits == sorted(fits, reverse=True)
    speeds = [way.performance.tokens_per_second.middle for way in found if way.fits]
    assert speeds == sorted(speeds, reverse=True)


def test_every_strategy_is_looked_at_on_every_number_of_gpus() -> None:
    found = {way.key for way in ways("gemma3/1b-reference", "h100-80", (1, 2))}
    labels = {"fsdp2", "fsdp2-shard-grad-op", "fsdp2+offload", "zero1", "zero2", "zero3"}
    assert {(label, gpus) for label in labels for gpus in (1, 2)} <= found
    assert ("single", 1) in found
    assert ("ddp", 2) in found
    assert ("ddp", 1) not in found


def test_what_is_trained_stays_the_same() -> None:
    asked: Recipe = Request(name="gemma3/4b-lora").recipe()
    for way in ways("gemma3/4b-lora", "a100-40"):
        assert way.recipe.batch.global_batch_size == asked.batch.global_batch_size
        assert (way.recipe.model.lora, way.recipe.model.dtype) == (asked.model.lora, asked.model.dtype)
        assert (way.recipe.data, way.recipe.optim) == (asked.data, asked.optim)
        assert (
            way.gpus * way.setting.per_device_batch_size * way.setting.gradient_accumulation_steps
            >= asked.batch.global_batch_size
        )


def test_more_gpus_than_rows_are_no_way() -> None:
    assert ways("gemma3/1b-reference", "h100-80", (128,)) == []


@pytest.mark.parametrize(
    ("name", "card", "gpus", "label"),
    [
        ("gemma3/27b", "h100-80", 8, "ddp"),
        ("gemma3/27b", "h100-80", 1, "single"),
        ("gemma3/4b", "rtx-4090-24", 1, "single"),
        ("gemma3/12b", "a100-40", 8, "zero1"),
    ],
)
def test_states_that_are_larger_than_a_card_never_fit(name: str, card: str, gpus: int, label: str) -> None:
    found = [way for way in ways(name, card, (gpus,)) if way.label == label]
    assert found
    assert not any(way.fits for way in found)
    assert all(way.memory.states_bytes > 10**9 for way in found)


def test_the_command_of_a_way_plans_that_way(cli: Cli) -> None:
    rows = json.loads(cli("fit", "gemma3/4b", "--gpu", "h100-80", "--gpus", "1,8", "--json").stdout)
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


def test_the_table_fits_a_page_and_tells_why_the_rest_does_not_fit(cli: Cli) -> None:
    output = cli("fit", "gemma3/27b", "--gpu", "h100-80").output
    table = [line for line in output.splitlines() if not line.startswith("gemfit plan")]
    assert max(map(len, table)) <= 100
    assert "What does not fit" in output
    assert "single" in output
    assert "states alone 432 GB, most: moments 216 GB" in output


def test_a_handful_is_shown_unless_all_is_asked_for(cli: Cli) -> None:
    short, full = (cli("fit", "gemma3/1b", "--gpu", "a100-80", *more).output for more in ((), ("--all",)))
    assert len(short.splitlines()) < 40 < len(full.splitlines())


def test_a_node_with_too_little_memory_rules_offload_out(cli: Cli) -> None:
    asked = ("fit", "gemma3/12b", "--gpu", "h100-80", "--gpus", "2", "--strategy", "zero2", "--json")
    free, bounded = (json.loads(cli(*asked, *more).stdout) for more in ((), ("--host-memory", 64)))
    assert any(row["fits"] for row in free if row["strategy"] == "zero2+offload")
    assert not any(row["fits"] for row in bounded if row["strategy"] == "zero2+offload")


def test_only_the_strategies_that_are_named_are_looked_at(cli: Cli) -> None:
    asked = ("fit", "gemma3/1b", "--gpu", "h100-80", "--strategy", "zero3", "--json")
    assert {row["strategy"] for row in json.loads(cli(*asked).stdout)} == {"zero3", "zero3+offload"}


def test_where_nothing_fits_that_is_said(cli: Cli) -> None:
    output = cli("fit", "gemma3/27b", "--gpu", "rtx-4090-24", "--gpus", "1", "--strategy", "zero2").output
    assert "Nothing fits on these numbers of GPUs" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gemma3/1b", "--gpu", "h1000-80"), "no such card; did you mean 'h100-80'"),
        (
            ("gemma3/1b", "--gpu", "h100-80", "--gpus", "1,x"),
            "--gpus 1,x: write numbers such as 1,2,8, or all",
        ),
        (("gemma3/1b", "--gpu", "h100-80", "--set", "model.id=a/b"), "the shape of a/b is not known here"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(arguments: tuple[str, ...], message: str, cli: Cli) -> None:
    result = cli("fit", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_smallest_change_is_none_where_a_recipe_fits_and_never_offload_where_less_will_do() -> None:
    recipe, architecture = known("gemma3/12b")
    (same,) = smallest_changes(recipe, architecture, CARDS["h100-80"], 8)
    assert same.options(recipe) == ["--gpus", "8"]
    (less,) = smallest_changes(recipe, architecture, CARDS["a100-40"], 16)
    assert not less.offloads


def test_the_best_of_each_keeps_the_order() -> None:
    found = ways("gemma3/1b-reference", "h100-80")
    best = best_of_each(found)
    assert [way for way in found if way in best] == best
    assert len({way.key for way in best}) == len(best)


def test_the_tables_of_the_page_on_scaling_are_what_is_predicted_now() -> None:
    root = Path(__file__).parents[2]
    argv = [sys.executable, str(root / "benchmarks" / "scaling_plan.py")]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    page = (root / "docs" / "scaling.md").read_text()
    assert len(rows) >= 40
    assert all(row in page for row in rows), "make it again: benchmarks/scaling_plan.py --out docs/scaling.md"
