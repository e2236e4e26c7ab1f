"""How well an architecture is tested: one table for the plan and the documents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit_launch.cli import main
from gemfit_launch.predict.architectures import ARCHITECTURES, find_architecture
from gemfit_launch.predict.shape_lookup import shipped_shapes

ROOT = Path(__file__).parents[2]


def of(tmp_path: Path, **config: Any) -> tuple[str | None, str]:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find_architecture(ModelRecipe(id=str(tmp_path)))
    return found.name, found.standing


def test_every_gemma_3_is_proven(tmp_path: Path) -> None:
    models = [ModelRecipe(id=name) for name in shipped_shapes()]
    found = [find_architecture(model) for model in [*models, ModelRecipe(scratch=ScratchModel())]]
    assert {(one.name, one.standing) for one in found} == {("gemma3_text", "proven")}
    text = {"model_type": "gemma3_text"}
    assert of(tmp_path, model_type="gemma3", text_config=text) == ("gemma3_text", "proven")


@pytest.mark.parametrize(
    ("config", "standing"),
    [
        ({"model_type": "qwen3"}, "loads"),
        ({"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}}, "loads"),
        ({"model_type": "gemma4_text", "enable_moe_block": True}, "untried"),
        ({"model_type": "mamba"}, "untried"),
    ],
)
def test_another_architecture_has_its_standing(config: dict[str, Any], standing: str, tmp_path: Path) -> None:
    assert of(tmp_path, **config)[1] == standing


def test_without_a_configuration_it_is_unknown() -> None:
    found = find_architecture(ModelRecipe(id="someone/some-model"))
    assert (found.name, found.standing) == (None, "unknown")


def test_what_loads_is_what_the_tests_load() -> None:
    text = (ROOT / "tests/train/test_other_models.py").read_text()
    tested = set(re.findall(r'^    "([\w-]+)": Family\(', text, re.MULTILINE)) - {"gemma4-dense"}
    loads = {
        name.removesuffix("_text") for name, (standing, _) in ARCHITECTURES.items() if standing == "loads"
    }
    assert loads == tested


def test_the_documents_have_the_same_table() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.+) \|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE
    )
    assert {name: (standing, why) for name, standing, why in rows if name in ARCHITECTURES} == ARCHITECTURES


def test_the_plan_shows_it() -> None:
    command = ["plan", "debug/cpu-tiny", "--nproc", "1", "--device", "cpu"]
    shown = CliRunner().invoke(main, command)
    assert "gemma3_text, proven: every strategy" in " ".join(shown.output.split())
    made = CliRunner().invoke(main, [*command, "--json"])
    assert json.loads(made.output)["architecture"] == {
        "name": "gemma3_text",
        "standing": "proven",
        "because": ARCHITECTURES["gemma3_text"][1],
    }
