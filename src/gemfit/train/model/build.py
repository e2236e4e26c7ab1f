"""Build the model of a recipe on the meta device, with adapters, and load its tokenizer.

Weights are loaded in float32, the precision of the master weights; the engine casts for computing. Training
holds frozen ones in the compute dtype.
Opening a model costs its buffers and adapters; its weights are read once the engine has sharded it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

from gemfit.core.install_hint import install_hint
from gemfit.data.pack.reader import read_manifest
from gemfit.data.tokenize.file_tokenizer import open_tokenizer, tokenizer_digest_of
from gemfit.data.tokenize.tokenizer import load_tokenizer, pad_id, tokenizer_digest
from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import ModelRecipe, Quantization, ScratchModel
from gemfit.train.distributed.meta_init import allocate_parameters, init_on_meta
from gemfit.train.model.adapters import add_adapters, set_magnitudes
from gemfit.train.model.attention_checks import unavailable
from gemfit.train.model.out_of_memory import is_out_of_memory
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.model.safetensors_reader import BaseWeights, find_weights
from gemfit.train.model.sharded_init import load_buffers, load_into
from gemfit.train.model.text_architecture import TextArchitecture, text_architecture

logger = logging.getLogger(__name__)


class OpenedModel(NamedTuple):
    """A model on the meta device, and the files with its weights."""

    model: Any
    """A ``PackedCausalLM``, or a ``PeftModel`` around it."""
    weights: BaseWeights | None
    """The base weights to load; ``None`` where the parameters have their values already."""


def open_model(recipe: Recipe, tokenizer: Any) -> OpenedModel:
    """The model of ``recipe`` with its adapters, before the base weights are read.

    Equal on every rank. Raises ``UserError`` for weights that are missing or not those of a text model.
    """
    torch.manual_seed(recipe.seed)
    model, weights = (
        _from_scratch(recipe.model, tokenizer) if recipe.model.scratch else open_base(recipe.model)
    )
    return OpenedModel(prepare_for_training(model, recipe, tokenizer), weights)


def prepare_for_training(model: Any, recipe: Recipe, tokenizer: Any) -> Any:
    """Apply ``recipe`` to a base ``model``: no KV cache, activation checkpointing, adapters, quantization."""
    _check_vocabulary(model, tokenizer)
    model.config.architectures = [_transformers_class(model)]  # the class that loads the saved configuration
    model.config.use_cache = False
    if recipe.model.activation_checkpointing:
        # Reentrant checkpointing loses gradients under LoRA, where the inputs need none.
        model.activation_checkpointing_enable({"use_reentrant": False})
    if recipe.model.lora is not None:
        model = add_adapters(model, recipe.model.lora)
    if recipe.model.quantization is not None:
        _quantize(model, recipe.model.quantization, getattr(torch, recipe.model.dtype))
        set_magnitudes(model)  # of the values in 4 bits
    return model


def load_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The model of ``recipe`` whole, in float32 on the CPU: 4 bytes per parameter."""
    model, weights = open_model(recipe, tokenizer)
    if weights is not None:
        allocate_parameters(model, torch.device("cpu"), torch.float32)
        load_into(model, weights)
    return model


def open_base(recipe: ModelRecipe) -> OpenedModel:
    """The text model that ``model.id`` names, without adapters; see ``open_model``."""
    name, _ = _source(recipe)
    try:
        architecture = base_architecture(recipe)
        if recipe.gguf_file is not None:
            return OpenedModel(_from_gguf(recipe, architecture), None)
        architecture.config.name_or_path = name
        model = _init_on_meta(architecture, recipe.attention)
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


def base_architecture(recipe: ModelRecipe) -> TextArchitecture:
    """The text model inside the base model's configuration; ``UserError`` where there is none."""
    name, source = _source(recipe)
    with _reading_gguf(recipe):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **source)
    return text_architecture(config, name)


def persistent_buffers(folder: Path) -> list[str]:
    """Names of the buffers that a saved model of the configuration in ``folder`` has."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = init_on_meta(text_architecture(config, str(folder)).model_class, config, "eager")
    buffers = dict(model.named_buffers())
    return [name for name in model.state_dict() if name in buffers]


def scratch_config(scratch: ScratchModel, tokenizer: Any) -> Any:
    """The configuration of a Gemma 3 trained from scratch, for this tokenizer."""
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
    """The tokenizer of the model; ``UserError`` unless the pack was made with the same tokenizer."""
    folder, recipe = Path(plan.pack.folder), plan.recipe.model
    name = recipe.tokenizer or recipe.id
    source, revision = recipe.tokenizer_source or (str(folder / "tokenizer"), "main")
    tokenizer = load_tokenizer(source, revision)
    packed, loaded = read_manifest(folder).tokenizer_digest, tokenizer_digest(tokenizer)
    # transformers may mark special tokens by rules of a class that the files do not name.
    if packed != loaded and packed != tokenizer_digest_of(open_tokenizer(source, revision)):
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
        return OpenedModel(packed_class(Gemma3ForCausalLM)(config), None)
    except (ImportError, ValueError) as error:
        raise unavailable(recipe.attention, error) from None


def _init_on_meta(architecture: TextArchitecture, attention: str) -> Any:
    try:
        return init_on_meta(packed_class(architecture.model_class), architecture.config, attention)
    except (ImportError, ValueError) as error:
        raise unavailable(attention, error) from None


def _source(recipe: ModelRecipe) -> tuple[str, dict[str, Any]]:
    """Name and options with which transformers loads the base model."""
    assert recipe.id is not None, "ModelRecipe has an id or is scratch"
    folder = Path(recipe.id).expanduser()
    source: dict[str, Any] = {"revision": recipe.revision}
    if recipe.gguf_file is not None:
        source["gguf_file"] = recipe.gguf_file
    return (str(folder) if folder.is_dir() else recipe.id), source


def _from_gguf(recipe: ModelRecipe, architecture: TextArchitecture) -> Any:
    logger.info("%s is in GGUF: every rank reads it whole, 4 bytes of host memory per parameter", recipe.id)
    name, source = _source(recipe)
    with _reading_gguf(recipe):
        model = packed_class(architecture.model_class).from_pretrained(
            name, **source, dtype=torch.float32, attn_implementation=recipe.attention
        )
    _clear_quantization(model)
    return model


@contextmanager
def _reading_gguf(recipe: ModelRecipe) -> Iterator[None]:
    """A damaged GGUF file is a ``UserError``: its reader believes what the header says and fails anywhere."""
    try:
        yield
    except (OSError, ImportError):  # it is not there, or a package is not
        raise
    except Exception as error:
        if recipe.gguf_file is None or is_out_of_memory(error):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"model.gguf_file: {recipe.gguf_file} of {recipe.id!r} cannot be read: {first}; copy it again"
        ) from None


def _generation_config(name: str, revision: str) -> Any:
    """The generation configuration of the base model, if it has one."""
    try:
        return GenerationConfig.from_pretrained(name, revision=revision)
    except OSError:
        return None


def _transformers_class(model: Any) -> str:
    """Name of transformers' own class that the ``PackedCausalLM`` extends."""
    return next(cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))


def _clear_quantization(model: Any) -> None:
    """The weights are plain float32 now, but saving would refuse them as quantized."""
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
            f"{install_hint('qlora')}, or set model.quantization to null"
        ) from None
    quantize(model, settings, dtype)
