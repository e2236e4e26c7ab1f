"""Multimodal checkpoints (4b, 12b, 27b): their text part is trained, and exported in two ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
)

from gemfit.data.tokenize.tokenizer import save_tokenizer, train_tokenizer
from gemfit.errors import ExitCode, UserError
from gemfit.export.export import export, main
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import Lora, ModelRecipe
from gemfit.train.distributed.meta_init import init_on_meta
from gemfit.train.model.build import load_model
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.model.text_architecture import text_architecture
from train.trained import IDS, Trained, train

# transformers asks for a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TEXT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 8,
    "query_pre_attn_scalar": 16,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
PROCESSOR = '{"image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 4}'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


@pytest.fixture(scope="module")
def original(tokenizer: Any) -> Any:
    """A tiny multimodal model, with norms and projector that are not zero."""
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "projection" in name:
                parameter.normal_(std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def base(original: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, named as on the hub, in several files."""
    folder = tmp_path_factory.mktemp("base")
    original.save_pretrained(folder, max_shard_size="40KB")
    save_tokenizer(tokenizer, folder)
    (folder / "preprocessor_config.json").write_text(PROCESSOR)
    return folder


def renamed(base: Path, folder: Path, rename: Callable[[str], str | None]) -> Path:
    """``base`` in one file, with its weights under other names or left out."""
    tensors: dict[str, torch.Tensor] = {}
    for file in base.glob("*.safetensors"):
        tensors |= {new: tensor for key, tensor in load_file(file).items() if (new := rename(key))}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((base / "config.json").read_text())
    return folder


def in_memory_names(key: str) -> str:
    text = key.replace("language_model.model.", "model.language_model.")
    return text if text != key else f"model.{key}"


def recipe_of(folder: Path, **settings: Any) -> Recipe:
    return Recipe(model=ModelRecipe(id=str(folder), attention="sdpa", dtype="float32", **settings))


def logits(model: Any, **extra: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS, **extra).logits
    return found


def text_logits(model: Any) -> torch.Tensor:
    return logits(model, position_ids=torch.arange(IDS.shape[1])[None])


@pytest.mark.parametrize("names", ["on the hub", "in memory"])
def test_the_text_part_answers_as_the_whole_model_does_on_text(
    names: str, base: Path, original: Any, tokenizer: Any, tmp_path: Path
) -> None:
    folder = base if names == "on the hub" else renamed(base, tmp_path / "other", in_memory_names)
    model = load_model(recipe_of(folder), tokenizer)
    assert isinstance(model, Gemma3ForCausalLM)
    assert not any("vision" in name for name, _ in model.named_modules())
    torch.testing.assert_close(text_logits(model), logits(original), rtol=1e-5, atol=1e-6)
    assert model.config.architectures == ["Gemma3ForCausalLM"]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_every_buffer_is_the_one_that_transformers_makes(base: Path, original: Any, tokenizer: Any) -> None:
    model = load_model(recipe_of(base), tokenizer)
    expected = dict(original.model.language_model.named_buffers())
    found = {name.removeprefix("model."): buffer for name, buffer in model.named_buffers()}
    assert found.keys() == expected.keys()
    assert len(found) >= 3
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_largest_size_is_built_at_no_cost() -> None:
    text = {"hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "head_dim": 128}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 16, "query_pre_attn_scalar": 168}
    found = text_architecture(Gemma3Config(text_config=text | heads), "27b")
    assert found.is_multimodal
    model = init_on_meta(packed_class(found.model_class), found.config, "sdpa")
    assert sum(parameter.numel() for parameter in model.parameters()) == 27_009_346_304
    assert all(parameter.is_meta for parameter in model.parameters())
    assert float(model.model.embed_tokens.embed_scale) == pytest.approx(5376**0.5)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (
            lambda key: None if "layers.3.mlp.up_proj" in key else key,
            r"missing model\.layers\.3\.mlp\.up_proj",
        ),
        (lambda key: key.replace("language_model.model", "decoder"), r"unknown decoder\..* and \d+ more"),
        (lambda key: key.replace("k_norm", "key_norm"), r"missing .*k_norm.* unknown .*key_norm"),
    ],
    ids=["missing", "unknown", "misspelt"],
)
def test_weights_that_do_not_match_are_refused_by_name(
    rename: Callable[[str], str | None], message: str, base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    folder = renamed(base, tmp_path / "other", rename)
    with pytest.raises(UserError, match=message):
        load_model(recipe_of(folder), tokenizer)


def test_a_weight_of_another_shape_is_refused(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    folder = renamed(base, tmp_path / "other", lambda key: key)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"down_proj\.weight is \(32, 48\) on disk, \(32, 64\) by config"):
        load_model(recipe_of(folder), tokenizer)


def test_two_names_of_a_tied_weight_have_to_agree(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    folder = renamed(base, tmp_path / "other", lambda key: key)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["language_model.model.embed_tokens.weight"]
    save_file(tensors | {"language_model.lm_head.weight": embedding.clone()}, file)
    load_model(recipe_of(folder), tokenizer)
    save_file(tensors | {"language_model.lm_head.weight": embedding + 1}, file)
    with pytest.raises(UserError, match=r"differ, but by config\.json they are one weight"):
        load_model(recipe_of(folder), tokenizer)


@pytest.fixture(scope="module", params=[None, Lora(rank=4)], ids=["full", "lora"])
def trained(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("trained"), recipe_of(base, lora=request.param).model)


def test_the_text_only_export_has_the_logits_of_the_live_model(
    trained: Trained, original: Any, tmp_path: Path
) -> None:
    export(trained.run, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is Gemma3ForCausalLM
    torch.testing.assert_close(logits(model), trained.logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(model), logits(original), atol=1e-2), "nothing was trained"


def test_the_multimodal_export_has_the_logits_of_the_live_model_and_the_vision_of_the_base(
    trained: Trained, base: Path, tmp_path: Path
) -> None:
    done = export(trained.run, tmp_path / "out", multimodal=True)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert type(model) is Gemma3ForConditionalGeneration
    torch.testing.assert_close(logits(model), trained.logits, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "out/preprocessor_config.json").read_text() == PROCESSOR
    assert done["parameters"] == sum(p.numel() for p in model.parameters())


def raw_bytes(folder: Path) -> dict[str, bytes]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  (not a mapping)
                found[key] = opened.get_tensor(key).view(torch.uint8).numpy().tobytes()
    return found


def test_what_was_not_trained_is_copied_bit_for_bit_whatever_type_is_asked_for(
    trained: Trained, base: Path, tmp_path: Path
) -> None:
    export(trained.run, tmp_path / "out", multimodal=True, dtype="bfloat16")
    before, after = raw_bytes(base), raw_bytes(tmp_path / "out")
    assert before.keys() == after.keys()
    vision = [key for key in before if "language_model" not in key]
    assert len(vision) > 10
    assert all(before[key] == after[key] for key in vision)
    assert all(2 * len(after[key]) == len(before[key]) for key in before.keys() - set(vision))
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_fits_the_text_inside_the_multimodal_base(base: Path, tmp_path: Path) -> None:
    lora = train(tmp_path, recipe_of(base, lora=Lora(rank=4)).model)
    export(lora.run, tmp_path / "out", adapter=True)
    whole = AutoModelForImageTextToText.from_pretrained(base)
    adapted = PeftModel.from_pretrained(whole, str(tmp_path / "out"))
    torch.testing.assert_close(logits(adapted), lora.logits, rtol=1e-4, atol=1e-5)
    assert not any("vision" in name for name, _ in adapted.named_parameters() if "lora_" in name)


def test_a_text_only_run_has_nothing_to_nest_into(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = load_model(recipe_of_text(tmp_path / "text", tokenizer), tokenizer)
    assert type(text).__mro__[2] is Gemma3ForCausalLM
    run = train(tmp_path, recipe_of(tmp_path / "text").model).run
    assert main([str(run.root), "--out", str(tmp_path / "out"), "--multimodal"]) == ExitCode.USER_ERROR
    assert "--multimodal needs a run on a multimodal model.id" in capsys.readouterr().err


def recipe_of_text(folder: Path, tokenizer: Any) -> Recipe:
    """A text-only base, as the smaller sizes are."""
    Gemma3ForCausalLM(Gemma3Config(text_config=TEXT).text_config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return recipe_of(folder)
