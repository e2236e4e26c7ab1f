"""The model by itself: isolation, losses, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Gemma3ForCausalLM, SiglipVisionConfig

from gemfit.data.pack.reader import Row
from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.errors import UserError
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import Lora, ModelRecipe, ScratchModel
from gemfit.train.data.collate import Tensors, collate
from gemfit.train.model.build import load_model
from gemfit.train.model.packed_lm import PackedCausalLM, TokenLosses

SCRATCH = ScratchModel(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_attention_heads=2, head_dim=16, sliding_window=8
)
SEQ_LEN = 64
FIRST, SECOND = 27, 31
"""Lengths of two documents; both reach beyond the sliding window, and padding follows."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a sentence to learn from, and another one"] * 4, 300)


def make_model(tokenizer: Any, **settings: Any) -> Any:
    model = ModelRecipe(scratch=SCRATCH, dtype="float32", **{"attention": "sdpa"} | settings)
    return load_model(Recipe(model=model, data=DataRecipe(seq_len=SEQ_LEN)), tokenizer)


def packed(documents: list[Any]) -> Tensors:
    ids = np.concatenate(documents).astype(np.int32)
    row = np.zeros(SEQ_LEN, np.int32)
    labels = np.full(SEQ_LEN, -100, np.int32)
    row[: len(ids)], labels[1 : len(ids)] = ids, ids[1:]
    lengths = np.array([len(document) for document in documents], np.int32)
    return collate([Row(row, labels, lengths)], seq_len=SEQ_LEN, pad_id=0, flatten=False)


def logits_of(model: Any, documents: list[Any], **extra: Any) -> torch.Tensor:
    inputs = packed(documents) | extra
    inputs.pop("targets")
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits
    return logits[0, : sum(map(len, documents))]


@pytest.fixture
def documents() -> list[Any]:
    random = np.random.default_rng(0)
    return [random.integers(6, 250, length) for length in (FIRST, SECOND)]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_a_packed_document_gets_the_logits_it_has_alone(
    attention: str, train: bool, checkpointing: bool, tokenizer: Any, documents: list[Any]
) -> None:
    model = make_model(tokenizer, attention=attention, activation_checkpointing=checkpointing)
    assert model.config._attn_implementation == attention
    model.train(train)
    together = logits_of(model, documents)
    alone = torch.cat([logits_of(model, [document]) for document in documents])
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()


def test_the_comparison_sees_a_leak(tokenizer: Any, documents: list[Any]) -> None:
    model = make_model(tokenizer).eval()
    leaky = logits_of(model, documents, attention_mask=torch.ones(1, SEQ_LEN, dtype=torch.long))
    alone = torch.cat([logits_of(model, [document]) for document in documents])
    assert (leaky - alone).abs().max() > 1e-3 * alone.abs().max()


def test_a_cache_is_never_made_even_when_asked_for(tokenizer: Any, documents: list[Any]) -> None:
    model = make_model(tokenizer).eval()
    model.config.use_cache = True
    inputs = packed(documents)
    inputs.pop("targets")
    assert model(**inputs, use_cache=True).past_key_values is None


def test_losses_and_gradients_are_those_of_the_plain_model(
    tokenizer: Any, documents: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slices that do not divide the row: the last one is short.
    monkeypatch.setattr("gemfit.train.data.collate.LOSS_SLICE_TOKENS", 24)
    model = make_model(tokenizer)
    inputs = packed(documents)
    sliced = model(**inputs).loss_sum
    torch.autograd.backward(sliced)
    gradient = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    targets = inputs.pop("targets")
    logits = Gemma3ForCausalLM.forward(model, **inputs, use_cache=False).logits
    plain = functional.cross_entropy(logits[0], targets[0], ignore_index=-100, reduction="sum")
    torch.autograd.backward(plain)
    assert sliced.item() == pytest.approx(plain.item(), rel=1e-6)
    torch.testing.assert_close(gradient, model.get_input_embeddings().weight.grad)


def test_logits_of_all_slices_but_the_last_are_computed_twice(
    tokenizer: Any, documents: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemfit.train.data.collate.LOSS_SLICE_TOKENS", 24)
    model, made = make_model(tokenizer), []
    model.lm_head.register_forward_hook(lambda *_: made.append(1))
    loss = model(**packed(documents)).loss_sum
    forward = len(made)
    torch.autograd.backward(loss)
    assert forward == -(-SEQ_LEN // 24) > 1
    assert len(made) == 2 * forward - 1


def test_an_empty_row_adds_exactly_nothing(tokenizer: Any) -> None:
    model = make_model(tokenizer)
    losses: TokenLosses = model(**collate([None, None], seq_len=SEQ_LEN, pad_id=0, flatten=False))
    assert losses.loss_sum is not None
    torch.autograd.backward(losses.loss_sum)
    assert float(losses.loss_sum.detach()) == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_token_accuracy_counts_trained_places_only(tokenizer: Any, documents: list[Any]) -> None:
    model = make_model(tokenizer).eval()
    inputs = packed(documents)
    with torch.no_grad():
        correct = model(**inputs).correct
        best = logits_of(model, documents).argmax(-1)
    targets = inputs["targets"][0, : FIRST + SECOND]
    assert int(correct) == int(((best == targets) & (targets != -100)).sum())


def test_equal_seeds_give_equal_weights_and_others_do_not(tokenizer: Any) -> None:
    def weights(seed: int) -> torch.Tensor:
        recipe = Recipe(model=ModelRecipe(scratch=SCRATCH, attention="sdpa"), seed=seed)
        model = load_model(recipe, tokenizer)
        found: torch.Tensor = model.model.layers[0].mlp.up_proj.weight
        return found

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_adapters_leave_all_other_weights_alone(tokenizer: Any) -> None:
    model = make_model(tokenizer, lora=Lora(rank=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 7 * 6, "two matrices for each of 7 modules in each of 6 layers"
    assert all("lora_" in name for name in trained)


def test_an_adapter_for_a_module_that_is_not_there_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"no linear module qkv_proj; it has .*q_proj"):
        make_model(tokenizer, lora=Lora(targets=("qkv_proj",)))


def test_a_model_that_predicts_no_tokens_is_refused(tokenizer: Any, tmp_path: Any) -> None:
    SiglipVisionConfig().save_pretrained(tmp_path)
    recipe = Recipe(model=ModelRecipe(id=str(tmp_path), attention="sdpa"))
    with pytest.raises(UserError, match=r"is a 'siglip_vision_model' model, and .* no causal language model"):
        load_model(recipe, tokenizer)


def test_weights_that_are_not_there_are_refused(tokenizer: Any, tmp_path: Any) -> None:
    make_model(tokenizer).config.save_pretrained(tmp_path)
    recipe = Recipe(model=ModelRecipe(id=str(tmp_path), attention="sdpa"))
    with pytest.raises(UserError, match=rf"model.id: '{tmp_path}' at 'main' cannot be loaded"):
        load_model(recipe, tokenizer)


def test_a_saved_model_is_loaded_in_float32_with_the_attention_asked_for(
    tokenizer: Any, tmp_path: Any, documents: list[Any]
) -> None:
    original = make_model(tokenizer).eval()
    original.save_pretrained(tmp_path)
    recipe = Recipe(model=ModelRecipe(id=str(tmp_path), attention="eager", activation_checkpointing=False))
    loaded = load_model(recipe, tokenizer).eval()
    assert PackedCausalLM in type(loaded).__mro__
    assert (loaded.dtype, loaded.config._attn_implementation) == (torch.float32, "eager")
    assert loaded.config.architectures == ["Gemma3ForCausalLM"]
    torch.testing.assert_close(logits_of(loaded, documents), logits_of(original, documents))
