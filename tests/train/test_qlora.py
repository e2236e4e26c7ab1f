"""QLoRA: frozen layers are bitsandbytes' 4-bit ones, and what is trained and exported fits them."""

from __future__ import annotations

import copy
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.checkpoint import newest_valid
from gemfit.data.tokenize.tokenizer import save_tokenizer, train_tokenizer
from gemfit.errors import UserError
from gemfit.export.export import export
from gemfit.export.weights import weights_of_checkpoint
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import Lora, ModelRecipe, Quantization, ScratchModel
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checks import recipe_checks, selftest
from gemfit.train.distributed.meta_init import allocate_parameters
from gemfit.train.model import qlora
from gemfit.train.model.build import load_model, open_model
from gemfit.train.model.qlora import QuantizedLinear, check_layers, dequantize
from gemfit.train.model.safetensors_reader import BaseWeights
from gemfit.train.model.sharded_init import load_into
from train.trained import IDS, Trained, train

# transformers asks for a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CPU = torch.device("cpu")
LAYERS = 2
POSITIONS = torch.arange(IDS.shape[1])[None]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=16,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    save_tokenizer(tokenizer, folder)
    return folder


def model_recipe(folder: Path, **settings: Any) -> ModelRecipe:
    defaults: dict[str, Any] = {
        "id": str(folder),
        "attention": "sdpa",
        "dtype": "float32",
        "lora": Lora(rank=4, targets=("q_proj", "down_proj")),
        "quantization": Quantization(),
    }
    return ModelRecipe(**(defaults | settings))


def recipe_of(folder: Path, **settings: Any) -> Recipe:
    return Recipe(model=model_recipe(folder, **settings), seed=7)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS, position_ids=POSITIONS).logits
    return logits


def packed_layers(model: Any) -> dict[str, QuantizedLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_linear_layer_is_in_4_bits_and_nothing_else_is(
    folder: Path, tokenizer: Any, dtype: str
) -> None:
    model = load_model(recipe_of(folder, dtype=dtype), tokenizer)
    layers = packed_layers(model)
    assert len(layers) == 7 * LAYERS == check_layers(model, CPU), "also those without an adapter"
    assert all(isinstance(layer, Linear4bit) for layer in layers.values())
    for layer in layers.values():
        assert (
            layer.weight.numel() * layer.weight.element_size() * 2 == layer.in_features * layer.out_features
        )
    compute = getattr(torch, dtype)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else compute), name
        assert parameter.requires_grad == ("lora_" in name), name
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("quantization", [Quantization(), Quantization(type="fp4", double=False)])
def test_the_forward_pass_is_that_of_the_dequantised_weights(
    folder: Path, tokenizer: Any, quantization: Quantization
) -> None:
    model = load_model(recipe_of(folder, quantization=quantization), tokenizer)
    plain = load_model(recipe_of(folder, quantization=None), tokenizer)
    expected = logits_of(plain)
    for name, layer in packed_layers(model).items():
        numbers = dequantize_4bit(layer.weight.data, layer.quant_state)
        weight = plain.get_submodule(name).weight
        assert 0.05 < (numbers - weight).norm() / weight.norm() < 0.2, "rounded, and not lost"
        weight.data.copy_(numbers)
    found = logits_of(model)
    assert torch.allclose(found, logits_of(plain), atol=1e-6)
    assert not torch.allclose(found, expected, atol=1e-3), "the comparison would hold without 4 bits too"


def test_weights_are_packed_one_at_a_time_as_they_are_read(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[weakref.ref[torch.Tensor]] = []
    whole = BaseWeights.whole

    def watched(*args: Any) -> torch.Tensor:
        assert all(earlier() is None for earlier in read), "an unpacked weight is still in memory"
        tensor = whole(*args)
        read.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(BaseWeights, "whole", watched)
    model, weights = open_model(recipe_of(folder), tokenizer)
    assert weights is not None
    assert all(p.is_meta for name, p in model.named_parameters() if "lora_" not in name)
    allocate_parameters(model, CPU, torch.float32)
    with pytest.raises(RuntimeError, match="before its weight was read"):
        logits_of(model)
    load_into(model, weights)
    assert len(read) == 7 * LAYERS
    assert logits_of(model).isfinite().all()


def test_shards_of_a_packed_weight_are_ranges_of_its_bits(folder: Path, tokenizer: Any) -> None:
    from gemfit.train.model.sharded_init import _fill  # noqa: PLC0415  (the step of loading that every rank takes)

    model, weights = open_model(recipe_of(folder, dtype="bfloat16"), tokenizer)
    assert weights is not None
    whole = load_model(recipe_of(folder, dtype="bfloat16"), tokenizer)
    name = next(name for name in packed_layers(model) if "mlp.up_proj" in name) + ".weight"
    bits = whole.get_parameter(name).detach().view(-1).view(torch.int16)
    start, stop = 101, 777  # not where a block of 64 begins
    held = torch.zeros(stop - start, dtype=torch.bfloat16)
    _fill(model, name, weights, [FlatShard(held, start, model.get_parameter(name).shape)])
    assert torch.equal(held.view(torch.int16), bits[start:stop])


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("qlora"), model_recipe(folder, lora=Lora(rank=4)))


def test_a_checkpoint_holds_the_adapters_alone(trained: Trained) -> None:
    found = newest_valid(trained.run)
    assert found is not None
    saved = weights_of_checkpoint(found[0])
    expected = {name for name, p in trained.model.named_parameters() if p.requires_grad}
    assert set(saved.shapes) == expected
    assert len(expected) == 2 * 7 * LAYERS
    assert all("lora_" in name for name in expected)


def test_the_merged_export_answers_like_the_model_in_4_bits(trained: Trained, tmp_path: Path) -> None:
    export(trained.run, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = merged(IDS).logits
    assert torch.allclose(logits, trained.logits, atol=1e-4)
    untrained = load_model(trained.run.plan().recipe, trained.tokenizer)
    assert not torch.allclose(logits, logits_of(untrained), atol=1e-2), "two steps would not show"


def test_the_adapter_is_exported_without_bitsandbytes_and_loads_on_the_base(
    trained: Trained, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gemfit.train.model.qlora", None)
    export(trained.run, tmp_path / "out", adapter=True, dtype="float32")
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    live = {name: p for name, p in trained.model.named_parameters() if p.requires_grad}
    assert len(saved) == len(live)
    for name, tensor in saved.items():
        assert torch.equal(tensor, live[name.replace(".weight", ".default.weight")]), name
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(PeftModel.from_pretrained(base, str(tmp_path / "out")), PeftModel)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_learn_over_layers_in_4_bits(folder: Path, tokenizer: Any, dtype: str) -> None:
    model = load_model(recipe_of(folder, dtype=dtype, lora=Lora(rank=4)), tokenizer).train()
    bits = {name: layer.weight.clone() for name, layer in packed_layers(model).items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(12):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(input_ids=IDS, position_ids=POSITIONS, targets=IDS.roll(-1)).loss_sum
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    for name, layer in packed_layers(model).items():
        assert torch.equal(layer.weight.view(torch.uint8), bits[name].view(torch.uint8)), "frozen"


def test_a_layer_that_is_not_in_4_bits_fails_the_self_test(folder: Path, tokenizer: Any) -> None:
    model = load_model(recipe_of(folder), tokenizer)
    assert selftest.check_quantized(model, CPU) == 7 * LAYERS
    mlp = model.get_base_model().model.layers[1].mlp
    mlp.up_proj = torch.nn.Linear(64, 128, bias=False).requires_grad_(False)
    with pytest.raises(RuntimeError, match="these are not: up_proj"):
        selftest.check_quantized(model, CPU)


def test_a_kernel_that_gives_other_numbers_back_fails_the_self_test(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(recipe_of(folder, dtype="bfloat16"), tokenizer)
    selftest.check_quantized(model, CPU)
    monkeypatch.setattr(qlora, "dequantize_4bit", lambda *args: dequantize_4bit(*args) * 0.9)
    with pytest.raises(RuntimeError, match=r"64 inputs: weights come back 1\d\.\d% off"):
        selftest.check_quantized(model, CPU)


def test_rows_that_blocks_would_cross_are_refused(tokenizer: Any) -> None:
    scratch = ScratchModel(vocab_size=300, hidden_size=48, num_attention_heads=2, head_dim=32)
    model = ModelRecipe(scratch=scratch, lora=Lora(), quantization=Quantization(), attention="sdpa")
    with pytest.raises(UserError, match="48 inputs, not a multiple of 64"):
        open_model(Recipe(model=model), tokenizer)


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()(input_ids=IDS, position_ids=POSITIONS, targets=IDS.roll(-1)).loss_sum.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_logits_and_gradients_are_those_of_the_dequantised_model(trained: Trained, tokenizer: Any) -> None:
    model = copy.deepcopy(trained.model)
    logits, gradients = logits_of(model), gradients_of(model)
    dequantize(model)
    assert packed_layers(model) == {}
    assert torch.allclose(logits_of(model), logits, atol=1e-5)
    plain = gradients_of(model)
    assert plain.keys() == gradients.keys()
    assert len(plain) == 2 * 7 * LAYERS
    for name, gradient in plain.items():
        assert gradient.norm() > 0, name
        assert torch.allclose(
            gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())
        ), name


def test_a_sound_recipe_in_4_bits_falls_into_no_trap(folder: Path) -> None:
    checks = list(recipe_checks.check_recipe(recipe_of(folder, dtype="bfloat16"), CPU, full=False))
    assert [check for check in checks if check.state != "ok"] == []
    assert "4 bits" in [check.name for check in checks]


def test_4_bits_without_adapters_train_nothing_and_are_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match="add `lora`, or remove it"):
        model_recipe(folder, lora=None)


def test_a_machine_without_bitsandbytes_says_what_to_install(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gemfit.train.model.qlora", None)
    with pytest.raises(UserError, match=r"pip install '/path/to/gemfit\[qlora\]'"):
        open_model(recipe_of(folder), tokenizer)
