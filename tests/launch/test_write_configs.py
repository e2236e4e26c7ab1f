"""The files that accelerate and DeepSpeed read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gemfit.config.overrides import build
from gemfit.config.yaml_source import parse
from gemfit.rundir import RunDir
from gemfit.schemas.plan import PackReference, Plan, Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.planning.plan import make_plan
from gemfit_launch.planning.recipes import shipped
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.write_configs import (
    accelerate_yaml,
    deepspeed_json,
    in_folder,
    recipe_yaml,
    write_configs,
)

VARIANTS = [(name, False) for name in STRATEGY_NAMES] + [
    (name, True) for name in STRATEGY_NAMES if name not in ("single", "ddp")
]


def plan_for(strategy: str, offload: bool = False, name: str = "gemma3/1b-reference") -> Plan:
    return make_plan(
        Request(name=name, strategy=strategy, offload=offload).recipe(),
        topology=Topology(nodes=1, ranks_per_node=1 if strategy == "single" else 8, device="cuda"),
        pack=PackReference(fingerprint="0" * 32, folder="/packs/0"),
        rows=1000,
        rows_are_packed=True,
    )


@pytest.mark.parametrize(("strategy", "offload"), VARIANTS)
def test_configurations_are_as_they_were(
    strategy: str, offload: bool, golden: Callable[[str, str], None]
) -> None:
    plan = plan_for(strategy, offload)
    name = strategy + ("-offload" if offload else "")
    golden(f"{name}.accelerate.yaml", accelerate_yaml(plan))
    if plan.deepspeed is not None:
        golden(f"{name}.deepspeed.json", deepspeed_json(plan))


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_accelerate_reads_back_what_was_planned_although_it_reads_yaml_1_1(strategy: str) -> None:
    plan = plan_for(strategy, name="debug/cpu-tiny")
    reader = YAML(typ="safe", pure=True)
    reader.version = "1.1"
    assert reader.load(accelerate_yaml(plan)) == plan.accelerate


def test_float32_is_written_so_that_yaml_1_1_does_not_read_false() -> None:
    assert "mixed_precision: 'no'" in accelerate_yaml(plan_for("ddp", name="debug/cpu-tiny"))


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_precision_is_set_once_because_accelerate_refuses_it_with_a_deepspeed_file(strategy: str) -> None:
    plan = plan_for(strategy)
    assert plan.deepspeed is not None
    assert plan.deepspeed["bf16"]["enabled"] is True
    assert "mixed_precision" not in plan.accelerate


@pytest.mark.parametrize("name", shipped())
def test_the_recipe_in_a_run_folder_reads_back_equal(name: str) -> None:
    recipe = Request(name=name).recipe()
    for text in (recipe_yaml(recipe), recipe_yaml(recipe, Request(name=name).document())):
        assert build(Recipe, parse(text, "recipe.yaml")) == recipe


def test_origins_name_the_file_and_line_the_option_or_the_default() -> None:
    request = Request(name="gemma3/270m", settings=("optim.eps=1e-7",), strategy="zero3")
    text = recipe_yaml(request.recipe(), request.document())
    origins = {line.split(":")[0].strip(): line.partition("#")[2].strip() for line in text.splitlines()}
    assert "270m.yaml:" in origins["id"]
    assert "1b-reference.yaml:" in origins["learning_rate"]
    assert origins["eps"] == "--set optim.eps=1e-7"
    assert origins["stage"] == "--strategy zero3"
    assert origins["seed"] == "default"


def test_run_folder_is_filled_in_at_any_depth() -> None:
    value = {"a": ["{run_dir}/x", 1], "b": {"c": "{run_dir}"}}
    assert in_folder(value, "/runs/r") == {"a": ["/runs/r/x", 1], "b": {"c": "/runs/r"}}


def test_files_of_a_run_hold_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_for("zero3")
    run = RunDir.create(Path("runs/a"), plan)
    write_configs(run, plan)
    reader = YAML(typ="safe", pure=True)
    config = reader.load(run.accelerate_file.read_text())
    path = Path(config["deepspeed_config"]["deepspeed_config_file"])
    assert path == tmp_path / "runs/a/deepspeed.json"
    assert json.loads(path.read_text()) == plan.deepspeed
