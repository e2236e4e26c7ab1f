"""A run with an adapter, its export, and the values of its own model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.tokenize.tokenizer import train_tokenizer
from gemfit.export.export import export
from gemfit.export_check.expected import ExpectedValues, expected_values
from gemfit.schemas.recipe_model import Lora, ModelRecipe
from train.tiny_gemma import SIZES
from train.trained import Trained, train, write_conversations

HEADS = {"head_dim": 32, "query_pre_attn_scalar": 32}
"""The smallest heads that vLLM has for CPUs."""


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose global layers have scaled RoPE."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer([write_conversations(folder / "texts.jsonl").read_text()] * 4, 400)
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    torch.manual_seed(0)
    config = Gemma3TextConfig(**SIZES | HEADS | {"vocab_size": len(tokenizer)}, rope_parameters=rope)
    Gemma3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    model = ModelRecipe(id=str(base), dtype="bfloat16", attention="sdpa", lora=Lora(rank=4))
    return train(tmp_path_factory.mktemp("lora"), model)


@pytest.fixture(scope="package")
def exported(lora: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(lora.run, folder)
    return folder


@pytest.fixture(scope="package")
def expected(lora: Trained) -> ExpectedValues:
    """Values of the merged model, in the type of the export."""
    return expected_values(lora.run, "latest", "bfloat16", rows=4, samples=2, max_new_tokens=8)
