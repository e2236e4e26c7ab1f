"""Base model and licence come from recorded sources, or are unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemfit.export.base_model import find_base_model
from gemfit.export.user_statements import UserStatements
from gemfit.modelcard.card import render
from gemfit.modelcard.facts import gather
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe_model import ModelRecipe
from modelcard.cards import ReadCard
from modelcard.recorded import recorded_plan, recorded_run


def plan_of(folder: Path, **model: object) -> Plan:
    plan = recorded_plan(folder)
    recipe = plan.recipe.model_copy(update={"model": ModelRecipe.model_validate(model)})
    return plan.model_copy(update={"recipe": recipe})


def model_folder(folder: Path, config: dict[str, str], readme: str | None = None) -> str:
    base = folder / "weights"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(config))
    if readme is not None:
        (base / "README.md").write_text(readme)
    return str(base)


def test_a_gemma_from_the_hub_has_its_licence_and_name(tmp_path: Path) -> None:
    found = find_base_model(plan_of(tmp_path, id="google/gemma-3-1b-it", revision="main"), UserStatements())
    assert (found.hub_id, found.license, found.revision) == ("google/gemma-3-1b-it", "gemma", "main")


def test_the_licence_of_a_folder_is_that_of_its_readme(tmp_path: Path) -> None:
    base = model_folder(tmp_path, {"model_type": "gemma3_text"}, "---\nlicense: apache-2.0\n---\n# A model\n")
    found = find_base_model(plan_of(tmp_path, id=base), UserStatements())
    assert (found.license, found.hub_id) == ("apache-2.0", None)


def test_a_folder_that_calls_itself_gemma_is_under_its_terms(tmp_path: Path) -> None:
    base = model_folder(tmp_path, {"_model_name_or_path": "Gemma 3 270m"})
    found = find_base_model(plan_of(tmp_path, id=base), UserStatements())
    assert found.license == "gemma"
    assert str(tmp_path) not in found.name


def test_an_architecture_does_not_imply_a_licence(tmp_path: Path) -> None:
    base = model_folder(tmp_path, {"model_type": "gemma3_text", "architectures": "Gemma3ForCausalLM"})
    assert find_base_model(plan_of(tmp_path, id=base), UserStatements()).license is None


def test_statements_of_the_user_take_precedence(tmp_path: Path) -> None:
    stated = UserStatements(license="other", base_model="me/mine")
    found = find_base_model(plan_of(tmp_path, id="google/gemma-3-1b-it"), stated)
    assert (found.license, found.hub_id) == ("other", "me/mine")


@pytest.mark.parametrize(
    ("merged", "relation", "library"), [(True, "finetune", "transformers"), (False, "adapter", "peft")]
)
def test_the_header_distinguishes_an_adapter_from_a_whole_model(
    tmp_path: Path, merged: bool, relation: str, library: str
) -> None:
    run = recorded_run(tmp_path / "run", attempts=False)
    plan = run.plan()
    values = plan.recipe.model_dump(mode="json")
    values["model"] |= {"scratch": None, "id": "google/gemma-3-1b-it", "lora": {"rank": 4}}
    values["hub"] |= {"push": "end", "repo": "me/mine", "merge_adapter": merged}
    run.plan_file.write_text(json.dumps(plan.model_dump(mode="json") | {"recipe": values}))
    header = ReadCard(render(gather(run), None)).header
    assert (header["base_model_relation"], header["library_name"]) == (relation, library)
    assert header["base_model"] == "google/gemma-3-1b-it"
    assert header["model-index"][0]["name"] == "me/mine"
