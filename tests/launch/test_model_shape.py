"""Shapes of models: parameters as `transformers` counts them, on the meta device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemfit.errors import UserError
from gemfit.schemas.recipe_model import ModelRecipe, ScratchModel
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.shape_lookup import FAMILIES, find_shape, shape_from_config, shipped_shapes

SIZES = {f"google/gemma-3-{size}-it": size for size in ("270m", "1b", "4b", "12b", "27b")}


@pytest.fixture(scope="module")
def counted() -> Callable[[dict[str, Any]], int]:
    """Parameters of the model that a configuration makes, without memory for any of them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def count(config: dict[str, Any]) -> int:
        made = transformers.AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(made)
        return sum(parameter.numel() for parameter in model.parameters())

    return count


@pytest.mark.parametrize("name", SIZES)
def test_every_size_of_gemma_3_has_the_parameters_that_transformers_makes(
    name: str, counted: Callable[[dict[str, Any]], int]
) -> None:
    shape = shipped_shapes()[name]
    config = {
        "model_type": "gemma3_text",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "pad_token_id": 0,
    }
    assert shape.parameters == counted(config)


SMALL = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gemma2", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
        {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2},
        {"model_type": "llama", "num_attention_heads": 4, "attention_bias": True, "mlp_bias": True},
        {"model_type": "llama", "num_attention_heads": 4, "tie_word_embeddings": True},
        {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 2},
        {"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
        {"model_type": "gemma3_text", "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8},
    ],
    ids=lambda config: "-".join(map(str, list(config.values())[:1] + list(config)[2:])),
)
def test_other_families_are_counted_by_the_same_formula(
    config: dict[str, Any], counted: Callable[[dict[str, Any]], int]
) -> None:
    config = SMALL | {"pad_token_id": 0} | config
    assert shape_from_config(config).parameters == counted(config)


def test_what_a_gemma_3_configuration_leaves_out_has_the_value_of_its_class() -> None:
    transformers = pytest.importorskip("transformers")
    made = transformers.AutoConfig.for_model("gemma3_text").to_dict()
    left_out = shape_from_config({"model_type": "gemma3_text"})
    assert left_out == shape_from_config({**made, "model_type": "gemma3_text"})


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma3_text"}))
def test_other_families_have_to_say_their_sizes(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, "vocab_size": 300}))
    found = find_shape(ModelRecipe(id=str(tmp_path)))
    assert found.shape is None
    assert "does not say hidden_size, intermediate_size" in str(found.why_not)


def test_a_model_in_the_hub_cache_is_read_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--some-model"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    config = SMALL | {"model_type": "llama", "num_attention_heads": 4}
    (snapshot / "config.json").write_text(json.dumps(config))
    assert find_shape(ModelRecipe(id="someone/some-model")).shape == shape_from_config(config)
    assert find_shape(ModelRecipe(id="someone/some-model", revision="b" * 40)).shape is None


def test_the_vision_tower_is_what_published_checkpoints_have_besides_text() -> None:
    known = shipped_shapes()
    totals = {size: known[name].parameters + known[name].vision_parameters for name, size in SIZES.items()}
    assert totals == {
        "270m": 268_098_176,
        "1b": 999_885_952,
        "4b": 4_300_079_472,
        "12b": 12_187_325_040,
        "27b": 27_432_406_640,
    }


def test_the_pretrained_models_have_the_shape_of_the_tuned_ones() -> None:
    shapes = shipped_shapes()
    assert shapes["google/gemma-3-4b-pt"] == shapes["google/gemma-3-4b-it"]
    assert {"google/gemma-3-270m", "google/gemma-3-27b-pt"} <= set(shapes)


def test_one_layer_in_six_of_every_size_sees_all() -> None:
    for name in SIZES:
        found = shipped_shapes()[name]
        assert found.num_layers - found.num_sliding_layers == found.num_layers // 6


def test_a_local_folder_is_read_text_part_and_all(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    found = find_shape(ModelRecipe(id=str(tmp_path))).shape
    assert found is not None
    assert (found.hidden_size, found.vocab_size, found.num_heads) == (2560, 262_208, 8)


def test_a_model_that_is_not_in_the_hub_cache_is_named_and_no_error() -> None:
    found = find_shape(ModelRecipe(id="someone/some-model"))
    assert found.shape is None
    assert "someone/some-model" in str(found.why_not)


def test_an_unknown_family_is_named_without_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    found = find_shape(ModelRecipe(id=str(tmp_path)))
    assert found.shape is None
    assert "'mamba' is not one of gemma3_text" in str(found.why_not)


def test_a_broken_configuration_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: is not valid JSON"):
        find_shape(ModelRecipe(id=str(tmp_path)))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**12},
        {"num_hidden_layers": "x"},
        {"hidden_size": -1},
        {"hidden_size": 1.5},
        {"vocab_size": None},
        {"head_dim": "x"},
        {"num_key_value_heads": [1]},
        {"layer_types": 7},
        {"sliding_window_pattern": "x"},
        {"text_config": [1]},
    ],
)
def test_a_size_that_no_model_has_is_named(changes: dict[str, Any], tmp_path: Path) -> None:
    sizes = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"), 64)
    config = sizes | {"model_type": "gemma3_text", "num_hidden_layers": 2, "sliding_window": 8} | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: .*; copy it again"):
        find_shape(ModelRecipe(id=str(tmp_path)))


@pytest.mark.parametrize("kind", [["gemma3_text"], {"a": 1}, None])
def test_a_family_that_is_no_text_is_unknown(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert "is not one of" in str(find_shape(ModelRecipe(id=str(tmp_path))).why_not)


def test_random_weights_have_the_shape_that_the_recipe_says() -> None:
    found = find_shape(ModelRecipe(scratch=ScratchModel(hidden_size=48, num_hidden_layers=7))).shape
    assert found is not None
    assert (found.hidden_size, found.num_sliding_layers, found.sliding_window) == (48, 6, 128)


def test_adapters_are_two_matrices_a_target() -> None:
    made = shape_from_config(SMALL | {"model_type": "llama", "num_attention_heads": 4})
    shapes = made.adapter_shapes(8, ("q_proj", "gate_proj"))
    assert shapes == ((8, 64, 7), (64, 8, 7), (8, 64, 7), (96, 8, 7))
    magnitudes = made.adapter_shapes(8, ("gate_proj",), magnitudes=True)
    assert magnitudes == ((8, 64, 7), (96, 8, 7), (96, 1, 7))


def test_a_sliding_window_bounds_what_a_token_sees() -> None:
    made: ModelShape = shape_from_config(SMALL | {"model_type": "llama", "num_attention_heads": 4})
    assert made.attended_tokens(4, window=None) == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert made.attended_tokens(4, window=2) == pytest.approx((1 + 2 + 2 + 2) / 4)
