"""The model and the tokenizer that a plan names, on this process's CPU.

Weights are loaded in float32, the precision of the master weights; the engine casts for computing.
Every rank reads the whole model once: 4 bytes a parameter of host memory until the engine shards it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, Gemma3TextConfig

from gemfit.data.store import read_manifest
from gemfit.data.tokenizer import load_tokenizer, pad_id, tokenizer_digest
from gemfit.errors import UserError
from gemfit.plan import Plan
from gemfit.recipe import Lora, ModelRecipe, Recipe, Scratch
from gemfit.train.gemma import PackedGemma3

TEXT_MODEL = "gemma3_text"
ARCHITECTURE = "Gemma3ForCausalLM"


def load_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The model of ``recipe``, ready to be wrapped: a ``PackedGemma3``, or a ``PeftModel`` around it.

    Equal on every rank. Raises ``UserError`` for weights that are not there or not a Gemma 3.
    """
    torch.manual_seed(recipe.seed)
    if recipe.model.scratch is not None:
        config = scratch_config(recipe.model.scratch, tokenizer)
        config._attn_implementation = recipe.model.attention
        model = PackedGemma3(config)
    else:
        model = _from_pretrained(recipe.model)
    _check_vocabulary(model, tokenizer)
    model.config.architectures = [ARCHITECTURE]  # what a reader of the saved configuration can load
    model.config.use_cache = False
    if recipe.model.activation_checkpointing:
        # Reentrant checkpointing loses gradients under LoRA, where the inputs need none.
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model if recipe.model.lora is None else _with_adapters(model, recipe.model.lora)


def scratch_config(scratch: Scratch, tokenizer: Any) -> Any:
    """The configuration of a Gemma 3 with random weights, for this tokenizer."""
    return Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.num_hidden_layers,
        num_attention_heads=scratch.num_attention_heads,
        num_key_value_heads=scratch.num_key_value_heads,
        head_dim=scratch.head_dim,
        query_pre_attn_scalar=scratch.head_dim,
        sliding_window=scratch.sliding_window,
        pad_token_id=pad_id(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def load_matching_tokenizer(plan: Plan) -> Any:
    """The tokenizer of the model; ``UserError`` unless the pack was made with the very same."""
    folder, recipe = Path(plan.pack.folder), plan.recipe.model
    name = recipe.tokenizer or recipe.id
    revision = recipe.revision if name == recipe.id else "main"
    tokenizer = load_tokenizer(str(folder / "tokenizer") if name is None else name, revision)
    packed, loaded = read_manifest(folder).tokenizer_digest, tokenizer_digest(tokenizer)
    if packed != loaded:
        raise UserError(
            f"{folder}: was packed with tokenizer {packed[:8]}, but model.tokenizer "
            f"{name or 'of the pack'!r} is {loaded[:8]}: its ids mean other text; "
            "pack again with `gemfit pack`, or set model.tokenizer to the one that was used"
        )
    return tokenizer


def _from_pretrained(recipe: ModelRecipe) -> Any:
    assert recipe.id is not None, "ModelRecipe has an id or is scratch"
    folder = Path(recipe.id).expanduser()
    source: dict[str, Any] = {"revision": recipe.revision}
    if recipe.gguf_file is not None:
        source["gguf_file"] = recipe.gguf_file
    name = str(folder) if folder.is_dir() else recipe.id
    try:
        config = AutoConfig.from_pretrained(name, **source)
        if config.model_type != TEXT_MODEL:
            raise UserError(
                f"model.id: {recipe.id} is a {config.model_type!r} model; only text-only Gemma 3 "
                f"({TEXT_MODEL!r}: 270m and 1b) can be trained"
            )
        model = PackedGemma3.from_pretrained(
            name, **source, dtype=torch.float32, attn_implementation=recipe.attention
        )
    except (OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"model.id: {recipe.id!r} at {recipe.revision!r} cannot be loaded: {first}; "
            "give a local folder, or a Hugging Face id that you may read"
        ) from None
    if recipe.gguf_file is not None:
        _forget_quantization(model)
    return model


def _forget_quantization(model: Any) -> None:
    """The weights are plain float32 now, but saving would refuse them as quantised."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None


def _check_vocabulary(model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows and rows < len(tokenizer) - 1:
        raise UserError(
            f"model.tokenizer: has ids up to {highest}, but the model has embeddings for {rows}; "
            "use the tokenizer that belongs to the model"
        )


def _with_adapters(model: Any, lora: Lora) -> Any:
    linear = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    if unknown := sorted(set(lora.targets) - linear):
        raise UserError(
            f"model.lora.targets: the model has no linear module {', '.join(unknown)}; "
            f"it has {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers is about to drop.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)
