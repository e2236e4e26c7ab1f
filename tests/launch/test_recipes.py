"""Finding, listing, showing, copying and checking recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.config.overrides import build
from gemfit.config.yaml_source import parse
from gemfit.errors import UserError
from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.recipes import find_recipe, shipped
from gemfit_launch.planning.request import Request

Cli = Callable[..., Result]
RECIPES = Path(__file__).parents[2] / "recipes"


def test_every_yaml_file_of_the_repository_is_shipped_and_has_a_description() -> None:
    files = {path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml")}
    assert len(files) >= 3, "the glob found fewer recipes than there are"
    assert set(shipped()) == files
    assert all(Request(name=name).recipe().description for name in files)


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_opens_with_what_it_is_and_a_command_that_names_it(name: str) -> None:
    first, second, *_ = shipped()[name].read_text().splitlines()
    assert first.startswith("# ")
    assert second.startswith((f"#   gemfit run {name} ", f"#   gemfit submit {name} "))


@pytest.mark.parametrize("size", ["270m", "1b", "4b", "12b", "27b"])
def test_every_size_keeps_the_values_of_the_reference_recipe(size: str) -> None:
    card = Request(name="gemma3/1b-reference").recipe()
    for name in (f"gemma3/{size}", f"gemma3/{size}-lora"):
        recipe = Request(name=name).recipe()
        assert recipe.model.id == f"google/gemma-3-{size}-it"
        assert (recipe.model.lora is None) != name.endswith("-lora")
        assert (recipe.data, recipe.optim, recipe.length) == (card.data, card.optim, card.length)
        assert recipe.batch.global_batch_size == card.batch.global_batch_size


DEFAULT_GPUS = {"4b": 8, "12b": 8, "27b": 16, "27b-lora": 8}


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("gemma3/")])
def test_a_shipped_recipe_is_predicted_to_fit_the_gpus_of_80_gb_that_it_is_for(name: str, cli: Cli) -> None:
    gpus = DEFAULT_GPUS.get(name.removeprefix("gemma3/"), 1)
    forecast = json.loads(cli("plan", name, "--gpus", gpus, "--gpu", "h100-80", "--json").stdout)["forecast"]
    assert forecast["memory"]["gpu_bytes"] > 1e9
    assert forecast["warnings"] == []


def test_a_recipe_is_found_by_name_or_path(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: gemma3/1b-reference\n")
    assert find_recipe("gemma3/1b-reference") == shipped()["gemma3/1b-reference"]
    assert find_recipe(str(own)) == own


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemma3/1b-referense", "no such recipe; did you mean 'gemma3/1b-reference'"),
        ("zzz", "no such recipe; shipped recipes: debug/cpu-tiny"),
        ("nowhere/x.yaml", "nowhere/x.yaml: there is no such file"),
    ],
)
def test_an_unknown_recipe_is_refused_with_the_list_of_recipes(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_recipe(name)


def test_ls_names_every_recipe_and_fits_a_page(cli: Cli) -> None:
    output = cli("recipes", "list").output
    assert all(name in output for name in shipped())
    assert max(map(len, output.splitlines())) <= 100
    assert [row["name"] for row in json.loads(cli("recipes", "list", "--json").output)] == list(shipped())


def test_show_prints_a_recipe_that_reads_back(cli: Cli) -> None:
    result = cli("recipes", "show", "gemma3/270m", "--strategy", "zero3", "--set", "optim.learning_rate=5e-5")
    shown = build(Recipe, parse(result.output, "shown"))
    assert shown.optim.learning_rate == 5e-5
    assert shown.model.id == "google/gemma-3-270m-it"
    assert shown.strategy.label == "zero3"


def test_show_as_json_is_the_recipe(cli: Cli) -> None:
    output = cli("recipes", "show", "gemma3/1b-reference", "--json").output
    assert Recipe.model_validate_json(output) == Request(name="gemma3/1b-reference").recipe()


@pytest.mark.parametrize("name", shipped())
def test_a_copy_means_the_same_wherever_it_lies(name: str, tmp_path: Path, cli: Cli) -> None:
    copy = tmp_path / "deep" / "mine.yaml"
    assert cli("recipes", "copy", name, copy).exit_code == 0
    assert Request(name=str(copy)).recipe() == Request(name=name).recipe()


def test_a_copy_of_ones_own_recipe_still_finds_its_parent(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "base.yaml").write_text("extends: gemma3/1b-reference\nseed: 7\n")
    (tmp_path / "top.yaml").write_text("# mine\nextends: base.yaml\n")
    (tmp_path / "there").mkdir()
    assert cli("recipes", "copy", tmp_path / "top.yaml", tmp_path / "there").exit_code == 0
    assert Request(name=str(tmp_path / "there" / "top.yaml")).recipe().seed == 7


def test_a_copy_overwrites_nothing(tmp_path: Path, cli: Cli) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("precious")
    result = cli("recipes", "copy", "gemma3/1b-reference", mine)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert mine.read_text() == "precious"


def test_check_passes_what_is_shipped(cli: Cli) -> None:
    result = cli("recipes", "check", *shipped(), "--gpus", 8)
    assert result.exit_code == 0
    assert result.output.count(": valid\n") == len(shipped())


def test_check_reports_the_mistakes_of_all_recipes_at_once(tmp_path: Path, cli: Cli) -> None:
    typo, gone = tmp_path / "typo.yaml", tmp_path / "gone.yaml"
    typo.write_text("extends: gemma3/1b-reference\noptim:\n  learning_rat: 1e-4\n  eps: no\n")
    gone.write_text("extends: gemma3/1b-reference\ndata:\n  source: nowhere.jsonl\n")
    result = cli("recipes", "check", typo, gone, "--gpus", 96)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert len(lines) == 4
    assert all(line.startswith("error: ") for line in lines)
    assert any("typo.yaml:3: optim.learning_rat is not a setting; did you mean" in line for line in lines)
    assert any("typo.yaml:4: optim.eps" in line and 'found "no"' in line for line in lines)
    assert any("at most 64 ranks" in line for line in lines)
    assert any("nowhere.jsonl: there is no such file" in line for line in lines)
