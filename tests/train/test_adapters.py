"""rsLoRA, DoRA, all-linear, and modules that are trained whole: what is built, saved, merged and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.tokenize.tokenizer import save_tokenizer, train_tokenizer
from gemfit.errors import UserError
from gemfit.export.export import export
from gemfit.export.merged_weights import merge_into, merged_weights
from gemfit.export.weights import merged_model, weights_of_model
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import Lora, ModelRecipe, Quantization
from gemfit.train.model.adapters import MAGNITUDE
from gemfit.train.model.build import load_model, open_model
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.model.qlora import QuantizedLinear
from gemfit_launch.output.plan import trained_parameters as trained_count
from train.trained import IDS, Trained, train

# transformers asks for a name of its own that it has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # peft alone, which ties no copies, says so.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

VOCABULARY, HIDDEN, LAYERS = 512, 64, 2
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDINGS: Any = ("embed_tokens", "lm_head")
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True, "targets": "all-linear"},
    "dora": {"use_dora": True},
    "whole": {"modules_to_save": ("embed_tokens",), "targets": ("q_proj", "down_proj")},
    "together": {"use_rslora": True, "use_dora": True, "modules_to_save": ("lm_head",)},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


def write_base(folder: Path, tokenizer: Any, *, tied: bool) -> Path:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=16,
        initializer_range=0.1,
        tie_word_embeddings=tied,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), tokenizer, tied=True)


def recipe_of(base: Path, lora: dict[str, Any], **settings: Any) -> Recipe:
    model = ModelRecipe(
        id=str(base), attention="sdpa", dtype="float32", lora=Lora(rank=4, **lora), **settings
    )
    return Recipe(model=model, seed=7)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(
            input_ids=IDS, position_ids=torch.arange(IDS.shape[1])[None]
        ).logits
    return logits


def trained_parameters(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_begin_as_peft_makes_them_on_a_whole_model(kind: str, base: Path, tokenizer: Any) -> None:
    lora = KINDS[kind]
    found = trained_parameters(load_model(recipe_of(base, lora), tokenizer))
    torch.manual_seed(7)
    whole = packed_class(Gemma3ForCausalLM).from_pretrained(base)
    config = LoraConfig(
        r=4,
        lora_alpha=32,
        task_type="CAUSAL_LM",
        target_modules=lora.get("targets", LINEAR),
        use_rslora=lora.get("use_rslora", False),
        use_dora=lora.get("use_dora", False),
        modules_to_save=list(EMBEDDINGS) if "modules_to_save" in lora else None,
    )
    expected = trained_parameters(get_peft_model(whole, config))
    untied = {name for name in expected if "lm_head" in name}
    assert found.keys() == expected.keys() - untied, "a weight that both embeddings share is trained once"
    for name, parameter in found.items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=0)
    assert any(MAGNITUDE in name for name in found) == lora.get("use_dora", False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantization", [None, Quantization()], ids=["plain", "4-bit"])
def test_before_the_first_step_they_change_nothing(
    kind: str, quantization: Quantization | None, base: Path, tokenizer: Any
) -> None:
    model = load_model(recipe_of(base, KINDS[kind], quantization=quantization), tokenizer)
    with_adapters = logits_of(model)
    with model.disable_adapter():
        torch.testing.assert_close(with_adapters, logits_of(model), rtol=1e-4, atol=1e-4)


def test_the_output_layer_and_its_copy_stay_out_of_4_bits(base: Path, tokenizer: Any) -> None:
    recipe = recipe_of(base, KINDS["together"], quantization=Quantization())
    model = load_model(recipe, tokenizer)
    found = [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]
    assert len(found) == len(LINEAR) * LAYERS
    assert not any("lm_head" in name for name in found)


def test_an_opened_model_with_copies_holds_no_weights(base: Path, tokenizer: Any) -> None:
    model = open_model(recipe_of(base, KINDS["together"]), tokenizer).model
    real = {name for name, parameter in model.named_parameters() if not parameter.is_meta}
    assert all("lora_" in name for name in real)


def test_copies_of_separate_embeddings_are_those_that_are_named(tokenizer: Any, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", tokenizer, tied=False)
    model = load_model(recipe_of(base, {"modules_to_save": ("lm_head",)}), tokenizer)
    whole = [name for name in trained_parameters(model) if "lora_" not in name]
    assert whole == ["base_model.model.lm_head.modules_to_save.default.weight"]


def test_all_linear_of_another_architecture_is_what_it_has(base: Path, tokenizer: Any) -> None:
    model = load_model(recipe_of(base, {"targets": "all-linear"}), tokenizer)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in trained_parameters(model)}
    assert adapted >= set(LINEAR)
    assert not any("lm_head" in name for name in trained_parameters(model))


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("trained"), recipe_of(base, KINDS[request.param]).model)


def test_the_merged_model_computes_what_the_adapted_one_does(trained: Trained, tmp_path: Path) -> None:
    export(trained.run, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), trained.logits, rtol=1e-4, atol=1e-4)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    with trained.model.disable_adapter():
        assert not torch.allclose(logits_of(merged), trained.logits, atol=1e-2), "the adapters do nothing"


def test_a_copy_of_an_output_layer_that_is_not_tied_is_exported(tokenizer: Any, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", tokenizer, tied=False)
    made = train(tmp_path, recipe_of(base, KINDS["together"]).model)
    check_same_bits(made)
    export(made.run, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), made.logits, rtol=1e-4, atol=1e-4)


def test_adapters_are_merged_tensor_by_tensor_to_the_same_bits(trained: Trained) -> None:
    check_same_bits(trained)


@pytest.mark.parametrize("kind", ["rslora", "dora"])
def test_adapters_over_4_bits_are_merged_tensor_by_tensor_to_the_same_bits(
    kind: str, base: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(base, KINDS[kind], quantization=Quantization())
    check_same_bits(train(tmp_path, recipe.model))


def check_same_bits(trained: Trained) -> None:
    recipe, checkpoint = trained.run.plan().recipe, trained.run.checkpoint(2)
    whole = weights_of_model(merged_model(recipe, trained.tokenizer, checkpoint))
    found = merged_weights(recipe, trained.tokenizer, checkpoint)
    assert list(found.shapes.items()) == list(whole.shapes.items())
    for name in whole.shapes:
        [one], [other] = (weights.fetch([name]).values() for weights in (found, whole))
        assert (one.dtype, torch.equal(one, other)) == (torch.float32, True), name


def test_an_export_leaves_the_base_without_memory(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers: list[Any] = []

    def noted(weight: torch.Tensor, layer: Any) -> torch.Tensor:
        layers.append(layer)
        return merge_into(weight, layer)

    monkeypatch.setattr("gemfit.export.merged_weights.merge_into", noted)
    monkeypatch.setattr("gemfit.train.model.build.load_model", None)  # which would hold all of it
    export(trained.run, tmp_path / "out")
    assert len(layers) >= 2 * LAYERS
    assert all(layer.get_base_layer().weight.is_meta and not layer.merged_adapters for layer in layers)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
def test_a_merged_export_has_the_type_of_the_recipe_or_the_one_that_is_asked_for(
    base: Path, tmp_path: Path, dtype: str | None
) -> None:
    made = train(tmp_path, recipe_of(base, KINDS["rslora"]).model.model_copy(update={"dtype": "bfloat16"}))
    export(made.run, tmp_path / "out", dtype=dtype)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {getattr(torch, dtype or "bfloat16")}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == (dtype or "bfloat16")


def test_the_exported_adapter_computes_the_same_on_its_base(
    trained: Trained, base: Path, tmp_path: Path
) -> None:
    export(trained.run, tmp_path / "out", adapter=True)
    whole = AutoModelForCausalLM.from_pretrained(base)
    loaded = PeftModel.from_pretrained(whole, str(tmp_path / "out"))
    torch.testing.assert_close(logits_of(loaded), trained.logits, rtol=1e-4, atol=1e-4)
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    if config["modules_to_save"]:
        # Each as its own tensor: versions of peft that tie nothing would leave the other one untrained.
        assert config["modules_to_save"] == list(EMBEDDINGS)
        copies = [name for name in saved if "embed_tokens" in name or "lm_head" in name]
        assert len(copies) == 2
        assert torch.equal(*(saved[name] for name in copies))


def test_dora_over_4_bits_is_merged_into_the_rounded_weights(base: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base, KINDS["dora"], quantization=Quantization())
    trained = train(tmp_path, recipe.model)
    export(trained.run, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), trained.logits, rtol=1e-3, atol=1e-3)


def test_only_the_embeddings_are_trained_whole() -> None:
    with pytest.raises(ValidationError, match=r"'embed_tokens' or 'lm_head'"):
        Lora(modules_to_save=("norm",))  # type: ignore[arg-type]  # what a recipe may say


def test_dora_is_not_compiled(base: Path) -> None:
    with pytest.raises(ValidationError, match="set `compile` or `use_dora` to false"):
        recipe_of(base, KINDS["dora"], compile=True)


@pytest.mark.parametrize("targets", ["all_linear", 3])
def test_targets_are_names_or_all_linear(targets: Any) -> None:
    with pytest.raises(ValidationError, match="a list of names of linear modules, or all-linear"):
        Lora(targets=targets)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_gives_adapters_back_as_they_were_written(kind: str) -> None:
    lora = Lora(**KINDS[kind])
    assert Lora.model_validate_json(lora.model_dump_json()) == lora


def test_the_output_layer_gets_no_adapter(base: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"no linear module lm_head; it has down_proj.*all-linear means all"):
        load_model(recipe_of(base, {"targets": ("q_proj", "lm_head")}), tokenizer)


def test_predicted_counts_are_those_of_the_model(base: Path, tokenizer: Any) -> None:
    for lora in KINDS.values():
        recipe = recipe_of(base, lora)
        found = sum(
            parameter.numel() for parameter in trained_parameters(load_model(recipe, tokenizer)).values()
        )
        assert trained_count(recipe.model) == found
