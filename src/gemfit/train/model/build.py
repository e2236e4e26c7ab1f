"""The model and the tokenizer that a plan names.

Weights are loaded in float32, the precision of the master weights; the engine casts for computing.
Opening a model costs its buffers and adapters; its weights are read once it is known which rank holds
which of them.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

from gemfit.data.pack.reader import read_manifest
from gemfit.data.tokenize.tokenizer import load_tokenizer, pad_id, tokenizer_digest
from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Lora, ModelRecipe, Quantization, Recipe, Scratch
from gemfit.train.model.architecture import Architecture, text_architecture
from gemfit.train.model.attention import not_there
from gemfit.train.model.packed_lm import packed
from gemfit.train.model.safetensors_reader import BaseWeights, find_weights
from gemfit.train.model.sharded_init import (
    load_buffers,
    load_into,
    materialise,
    on_cpu_by_name,
    without_memory,
)

logger = logging.getLogger(__name__)


class OpenedModel(NamedTuple):
    """A model, and where its weights are while it has none."""

    model: Any
    """A ``Packed`` causal language model, or a ``PeftModel`` around it."""
    weights: BaseWeights | None
    """What is to be loaded into the parameters on the meta device; ``None`` where there are none."""


def open_model(recipe: Recipe, tokenizer: Any) -> OpenedModel:
    """The model of ``recipe`` before its weights are read; its adapters, if any, are there.

    Equal on every rank. Raises ``UserError`` for weights that are not there, or not all of a text model.
    """
    torch.manual_seed(recipe.seed)
    model, weights = (
        _from_scratch(recipe.model, tokenizer) if recipe.model.scratch else open_base(recipe.model)
    )
    return OpenedModel(prepared(model, recipe, tokenizer), weights)


def prepared(model: Any, recipe: Recipe, tokenizer: Any) -> Any:
    """A base ``model`` as ``recipe`` trains it: without a cache, recomputed, with adapters."""
    _check_vocabulary(model, tokenizer)
    model.config.architectures = [_known_class(model)]  # what a reader of the saved configuration can load
    model.config.use_cache = False
    if recipe.model.activation_checkpointing:
        # Reentrant checkpointing loses gradients under LoRA, where the inputs need none.
        model.activation_checkpointing_enable({"use_reentrant": False})
    if recipe.model.lora is not None:
        model = _with_adapters(model, recipe.model.lora)
    if recipe.model.quantization is not None:
        _quantize(model, recipe.model.quantization, getattr(torch, recipe.model.dtype))
    return model


def load_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The model of ``recipe`` whole, in float32 on the CPU: 4 bytes a parameter."""
    model, weights = open_model(recipe, tokenizer)
    if weights is not None:
        materialise(model, torch.device("cpu"), torch.float32)
        load_into(model, weights)
    return model


def open_base(recipe: ModelRecipe) -> OpenedModel:
    """The text model that ``model.id`` names, without adapters; see ``open_model``."""
    name, _ = _source(recipe)
    try:
        architecture = text_part(recipe)
        if recipe.gguf_file is not None:
            return OpenedModel(_from_gguf(recipe, architecture), None)
        architecture.config.name_or_path = name
        model = _without_memory(architecture, recipe.attention)
        weights = find_weights(name, recipe.revision, model)
        load_buffers(model, weights)
        model.generation_config = _generation_config(name, recipe.revision) or model.generation_config
    except (OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"model.id: {recipe.id!r} at {recipe.revision!r} cannot be loaded: {first}; "
            "give a local folder, or a Hugging Face id that you may read"
        ) from None
    return OpenedModel(model, weights)


def text_part(recipe: ModelRecipe) -> Architecture:
    """The text model inside the base model's configuration; ``UserError`` where there is none."""
    name, source = _source(recipe)
    return text_architecture(AutoConfig.from_pretrained(name, **source), name)


def held_buffers(folder: Path) -> list[str]:
    """Buffers that a saved model of the configuration in ``folder`` holds beside its parameters."""
    config = AutoConfig.from_pretrained(folder)
    model = without_memory(text_architecture(config, str(folder)).model_class, config, "eager")
    buffers = dict(model.named_buffers())
    return [name for name in model.state_dict() if name in buffers]


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


def _from_scratch(recipe: ModelRecipe, tokenizer: Any) -> OpenedModel:
    assert recipe.scratch is not None
    config = scratch_config(recipe.scratch, tokenizer)
    config._attn_implementation = recipe.attention
    try:
        return OpenedModel(packed(Gemma3ForCausalLM)(config), None)
    except (ImportError, ValueError) as error:
        raise not_there(recipe.attention, error) from None


def _without_memory(architecture: Architecture, attention: str) -> Any:
    try:
        return without_memory(packed(architecture.model_class), architecture.config, attention)
    except (ImportError, ValueError) as error:
        raise not_there(attention, error) from None


def _source(recipe: ModelRecipe) -> tuple[str, dict[str, Any]]:
    """Name and options under which transformers finds the base model."""
    assert recipe.id is not None, "ModelRecipe has an id or is scratch"
    folder = Path(recipe.id).expanduser()
    source: dict[str, Any] = {"revision": recipe.revision}
    if recipe.gguf_file is not None:
        source["gguf_file"] = recipe.gguf_file
    return (str(folder) if folder.is_dir() else recipe.id), source


def _from_gguf(recipe: ModelRecipe, architecture: Architecture) -> Any:
    logger.info("%s is in GGUF: every rank reads it whole, 4 bytes a parameter of host memory", recipe.id)
    name, source = _source(recipe)
    model = packed(architecture.model_class).from_pretrained(
        name, **source, dtype=torch.float32, attn_implementation=recipe.attention
    )
    _forget_quantization(model)
    return model


def _generation_config(name: str, revision: str) -> Any:
    """How the base model generates; ``None`` where it says nothing."""
    try:
        return GenerationConfig.from_pretrained(name, revision=revision)
    except OSError:
        return None


def _known_class(model: Any) -> str:
    """Name of transformers' own class under the ``Packed`` one."""
    return next(cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))


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


def _quantize(model: Any, settings: Quantization, dtype: torch.dtype) -> None:
    try:
        from gemfit.train.model.qlora import quantize  # noqa: PLC0415  (bitsandbytes may not be installed)
    except ImportError as error:
        raise UserError(
            f"model.quantization: bitsandbytes cannot be imported ({error}); "
            "pip install 'gemfit[qlora]', or set model.quantization to null"
        ) from None
    quantize(model, settings, dtype)


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
        with on_cpu_by_name(model):
            return get_peft_model(model, config)
