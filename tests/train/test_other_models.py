"""Other text models than Gemma 3 go the same way: packed rows, sliced loss, their own decoder layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma4TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from gemfit.data.pack.reader import Row
from gemfit.data.tokenize.tokenizer import save_tokenizer, train_tokenizer
from gemfit.errors import UserError
from gemfit.export.export import export
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.train.data.collate import Tensors, collate
from gemfit.train.model.build import load_model
from gemfit.train.model.text_architecture import decoder_layers
from train.trained import IDS, train

if TYPE_CHECKING:
    from train.conftest import Launch

# transformers asks for a name of its own that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SEQ_LEN = 64
LENGTHS = (27, 31)
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


class Family(NamedTuple):
    """A configuration, and the class that holds one of its layers."""

    config: Callable[..., Any]
    layer: str


def gemma2(**sizes: Any) -> Any:
    """Logits and scores of attention have a cap."""
    return Gemma2Config(**sizes, sliding_window=8, query_pre_attn_scalar=16)


def gemma4(**sizes: Any) -> Any:
    """As E2B: layers share keys and values, each layer has its own embeddings, wider global heads, a cap."""
    own = {
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 400,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
    }
    return gemma4_dense(**sizes, **own)


def gemma4_dense(**sizes: Any) -> Any:
    """As 31B: in global layers values are the keys, of one head."""
    own = {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 8,
        "global_head_dim": 32,
        "final_logit_softcapping": 30.0,
    }
    if "num_kv_shared_layers" not in sizes:
        own |= {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
        sizes |= {"num_key_value_heads": 2}
    return Gemma4TextConfig(**sizes, **own)


FAMILIES = {
    "gemma2": Family(gemma2, "Gemma2DecoderLayer"),
    "llama": Family(LlamaConfig, "LlamaDecoderLayer"),
    "qwen2": Family(Qwen2Config, "Qwen2DecoderLayer"),
    "qwen3": Family(Qwen3Config, "Qwen3DecoderLayer"),
    "mistral": Family(lambda **sizes: MistralConfig(**sizes, sliding_window=8), "MistralDecoderLayer"),
    "gemma4": Family(gemma4, "Gemma4TextDecoderLayer"),
    "gemma4-dense": Family(gemma4_dense, "Gemma4TextDecoderLayer"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(family: str, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of the family with random weights, those of norms and buffers included."""
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    model = AutoModelForCausalLM.from_config(FAMILIES[family].config(**SIZES, **ids), dtype=torch.float32)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name or "scalar" in name:
                tensor.add_(0.1 * torch.randn(tensor.shape))
            elif "weight" in name:  # large enough for the caps of logits to matter
                tensor.mul_(5)
    folder = tmp_path_factory.mktemp(family)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def model_of(folder: Path, **settings: Any) -> ModelRecipe:
    # PyTorch's own attention knows no cap on its scores, which Gemma 2 has.
    attention = "eager" if "gemma2" in str(folder) else "sdpa"
    return ModelRecipe(**{"id": str(folder), "dtype": "float32", "attention": attention} | settings)


def documents() -> list[Any]:
    random = np.random.default_rng(0)
    return [random.integers(6, 250, length) for length in LENGTHS]


def packed(documents: list[Any]) -> Tensors:
    ids = np.concatenate(documents).astype(np.int32)
    row, labels = np.zeros(SEQ_LEN, np.int32), np.full(SEQ_LEN, -100, np.int32)
    row[: len(ids)] = ids
    ends = np.cumsum([len(document) for document in documents])
    for document, end in zip(documents, ends, strict=True):
        labels[end - len(document) + 1 : end] = document[1:]
    return collate([Row(row, labels, np.array(LENGTHS, np.int32))], seq_len=SEQ_LEN, pad_id=0, flatten=False)


def loss_alone(plain: Any, document: Any) -> torch.Tensor:
    logits = plain(torch.from_numpy(document)[None], use_cache=False).logits[0, :-1].float()
    return functional.cross_entropy(logits, torch.from_numpy(document[1:]), reduction="sum")


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_the_loss_and_gradient_of_a_packed_row_are_those_of_its_documents_alone(
    activation_checkpointing: bool, folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.train.data.collate.LOSS_SLICE_TOKENS", 24)
    recipe = model_of(folder, activation_checkpointing=activation_checkpointing)
    model = load_model(Recipe(model=recipe), tokenizer).train()
    assert model.is_gradient_checkpointing == activation_checkpointing
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    together = model(**packed(documents())).loss_sum
    alone = torch.stack([loss_alone(plain, document) for document in documents()]).sum()
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)
    torch.autograd.backward([together, alone])
    expected = dict(plain.named_parameters())
    scale = max(float(parameter.grad.abs().max()) for parameter in expected.values())
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-5 * scale)
            compared += 1
    assert compared > 20


def test_buffers_are_those_of_transformers(folder: Path, tokenizer: Any) -> None:
    model = load_model(Recipe(model=model_of(folder)), tokenizer)
    expected = dict(AutoModelForCausalLM.from_pretrained(folder).named_buffers())
    found = dict(model.named_buffers())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_class_of_its_layers_is_found(folder: Path, family: str, tokenizer: Any) -> None:
    model = load_model(Recipe(model=model_of(folder)), tokenizer)
    assert decoder_layers(model) == [FAMILIES[family].layer]


def test_an_attention_that_the_model_does_not_have_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    gemma2(**SIZES).save_pretrained(tmp_path)
    recipe = Recipe(model=ModelRecipe(id=str(tmp_path), attention="sdpa"))
    with pytest.raises(UserError, match=r"model\.attention: .* set model\.attention to eager"):
        load_model(recipe, tokenizer)


@pytest.mark.parametrize("family", ["gemma2", "gemma4", "gemma4-dense"], indirect=True)
def test_it_is_exported_whole(folder: Path, family: str, tmp_path: Path) -> None:
    trained = train(tmp_path, model_of(folder))
    export(trained.run, tmp_path / "out")
    eager = {"attn_implementation": trained.model.config._attn_implementation}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", **eager).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, trained.logits, rtol=1e-4, atol=1e-4)
    if family != "gemma2":
        held = load_file(tmp_path / "out/model.safetensors")
        assert sum("layer_scalar" in name for name in held) == SIZES["num_hidden_layers"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma4", "gemma4-dense"], indirect=True)
def test_gemma_4_passes_the_self_test_and_trains_the_same_in_each_engine(
    folder: Path, launch: Launch
) -> None:
    base = {"model__scratch": "null", "model__id": folder, "model__dtype": "float32", "length__max_steps": 3}
    single, sharded, zero3 = (launch(name, 1, **base) for name in ("single", "fsdp2", "zero3"))
    assert [run.engine.model_class for run in (sharded, zero3)] == ["FSDPModule", "DeepSpeedEngine"]
    for run in (single, sharded, zero3):
        for mode in ("eval", "train"):
            assert run.selftest[f"isolation_{mode}"]["against_other_company"] <= 1e-5
        assert run.losses == pytest.approx(single.losses, rel=1e-4)
        assert len(run.losses) == 3
    assert single.losses[-1] < single.losses[0]


@pytest.mark.dist
@pytest.mark.slow
def test_it_is_sharded_by_its_own_layers_and_trains_as_on_one_rank(
    launch: Launch, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("qwen3")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen3Config(**SIZES)).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    base = {"model__scratch": "null", "model__id": folder, "model__dtype": "float32"}
    one, two = launch("single", 1, **base), launch("fsdp2", 2, **base)
    assert two.engine.model_class == "FSDPModule"
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert two.losses[-1] < two.losses[0]
