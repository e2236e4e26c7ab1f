"""Each attention that runs here keeps documents apart and gives the losses and gradients of the others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gemfit.data.pack.reader import Row
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import Lora, ModelRecipe, ScratchModel
from gemfit.train.data.collate import Tensors, collate
from gemfit.train.model.attention_checks import (
    advice,
    check_gradient,
    check_in_use,
    embedding_gradient,
    prepare_attention,
)
from gemfit.train.model.build import load_model
from gemfit.train.model.compile import compile_layers

SCRATCH = ScratchModel(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_attention_heads=2, head_dim=16, sliding_window=8
)
LENGTHS = (27, 31)


def compiler_warnings(test: Any) -> Any:
    """What torch's own compiler warns of itself, and of the way in which transformers 5.23 calls it."""
    for kind in ("DeprecationWarning", "UserWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{kind}")(test)
    return test


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """transformers compiles flex_attention, which takes minutes and changes nothing of its masks."""
    with torch.compiler.set_stance("force_eager"):
        yield


def make_model(tokenizer: Any, **settings: Any) -> Any:
    model = ModelRecipe(scratch=SCRATCH, dtype="float32", **settings)
    return load_model(Recipe(model=model, data=DataRecipe(seq_len=64)), tokenizer)


def documents() -> list[Any]:
    random = np.random.default_rng(0)
    return [random.integers(6, 250, length) for length in LENGTHS]


def packed(parts: list[Any]) -> Tensors:
    ids = np.concatenate(parts).astype(np.int32)
    row, labels = np.zeros(64, np.int32), np.full(64, -100, np.int32)
    row[: len(ids)], labels[1 : len(ids)] = ids, ids[1:]
    lengths = np.array([len(part) for part in parts], np.int32)
    return collate([Row(row, labels, lengths)], seq_len=64, pad_id=0, flatten=False)


def logits(model: Any, parts: list[Any]) -> torch.Tensor:
    inputs = packed(parts)
    inputs.pop("targets")
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits
    return found[0, : sum(map(len, parts))]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@compiler_warnings
def test_documents_do_not_see_each_other(name: str, train: bool, tokenizer: Any) -> None:
    model = make_model(tokenizer, attention=name).train(train)
    check_in_use(model, name)
    together = logits(model, documents())
    alone = torch.cat([logits(model, [document]) for document in documents()])
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", ["sdpa", "flex_attention"])
@compiler_warnings
def test_logits_are_those_of_eager_attention(name: str, tokenizer: Any) -> None:
    eager, other = (make_model(tokenizer, attention=which).eval() for which in ("eager", name))
    torch.testing.assert_close(logits(other, documents()), logits(eager, documents()), rtol=0, atol=1e-5)


def test_losses_and_gradients_are_those_of_eager_attention(tokenizer: Any) -> None:
    found = {}
    for name in ("eager", "sdpa"):
        model = make_model(tokenizer, attention=name)
        loss = model(**packed(documents())).loss_sum
        loss.backward()
        found[name] = (loss.detach(), [parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(found["sdpa"][0], found["eager"][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found["sdpa"][1], found["eager"][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_a_backend_that_is_not_installed_is_refused_and_none_takes_its_place(
    name: str, tokenizer: Any
) -> None:
    with pytest.raises(
        UserError, match=rf"{name} cannot be used: .*; set model.attention to sdpa, or install"
    ):
        make_model(tokenizer, attention=name)


def test_a_backend_from_the_hub_counts_as_the_one_that_was_asked_for() -> None:
    module = SimpleNamespace(config=SimpleNamespace(_attn_implementation="kernels-community/flash-attn2"))
    check_in_use(module, "flash_attention_2")
    with pytest.raises(UserError, match="the plan says flash_attention_3"):
        check_in_use(module, "flash_attention_3")


def test_cudnn_attention_is_off_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", calls.append)
    prepare_attention("cpu")
    assert calls == []
    prepare_attention("cuda")
    assert calls == [False]


@pytest.mark.parametrize(("name", "other"), [("sdpa", "eager"), ("flex_attention", "sdpa")])
def test_the_way_out_is_another_attention(name: str, other: str) -> None:
    assert advice(name) == f"set model.attention to {other}"


class NoNumber(torch.autograd.Function):
    """A kernel whose backward pass fails."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * torch.nan


def without_backward(module: Any, inputs: Any, output: Any) -> Any:
    apply: Any = NoNumber.apply
    return apply(output[0]), *output[1:]


def process_of(model: Any) -> Any:
    def compute_loss(model: Any, inputs: dict[str, Any]) -> Any:
        return (
            model(**{k: v for k, v in inputs.items() if k != "step_tokens"}).loss_sum / inputs["step_tokens"]
        )

    return SimpleNamespace(
        model_wrapped=model,
        accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        compute_loss=compute_loss,
        take_step_loss=lambda: 0.0,
    )


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_the_probe_sees_all_layers_and_leaves_no_gradient(
    lora: Lora | None, checkpointing: bool, tokenizer: Any
) -> None:
    settings = {"attention": "sdpa", "lora": lora, "activation_checkpointing": checkpointing}
    model = make_model(tokenizer, **settings).train()
    hooks = len(model.get_input_embeddings()._forward_hooks)
    norm = float(embedding_gradient(process_of(model), packed(documents()), sum(LENGTHS) - 2).norm())
    check_gradient(norm, "sdpa")
    assert norm > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(model.get_input_embeddings()._forward_hooks) == hooks
    for layer in model.get_submodule("base_model").modules():
        if type(layer).__name__ == "Gemma3Attention":
            hook = layer.register_forward_hook(without_backward)
            broken = float(
                embedding_gradient(process_of(model), packed(documents()), sum(LENGTHS) - 2).norm()
            )
            hook.remove()
            with pytest.raises(UserError, match="gradients are not finite"):
                check_gradient(broken, "sdpa")


@pytest.mark.slow
@compiler_warnings
def test_compiled_layers_isolate_documents_and_give_the_same_losses(tokenizer: Any) -> None:
    plain, compiled = (make_model(tokenizer, attention="sdpa").train() for _ in range(2))
    compile_layers(compiled)
    losses = []
    for model in (plain, compiled):
        loss = model(**packed(documents())).loss_sum
        loss.backward()
        losses.append((loss.detach(), model.get_input_embeddings().weight.grad))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-4)
    together = logits(compiled, documents())
    alone = torch.cat([logits(compiled, [document]) for document in documents()])
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()
