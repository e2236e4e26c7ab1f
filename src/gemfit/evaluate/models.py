"""Load models of a run: its base model, its checkpoints, or any model folder, in the run's format.

A checkpoint is read straight into a model, without an export: memory is 4 bytes per parameter while it
is read. On a GPU a model computes in the recipe's type, on a CPU in float32, which most CPUs are fastest in.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, GenerationConfig

from gemfit.checkpoint.resolve_checkpoint import BASE, is_checkpoint_name, resolve_checkpoint
from gemfit.checkpoint.retention import reading
from gemfit.errors import UserError
from gemfit.evaluate.sharded import shard
from gemfit.export.chat_template import generation_settings, tokenizer_for_chat
from gemfit.export.export import packed_tokenizer
from gemfit.export.weights import merged_model, trained_weights
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import TAKES_BOUNDARIES, ModelRecipe
from gemfit.train.distributed.meta_init import allocate_parameters, init_on_meta
from gemfit.train.model.attention_checks import prepare_attention
from gemfit.train.model.build import load_model, open_model
from gemfit.train.model.packed_lm import packed_class, unpacked_model
from gemfit.train.model.text_architecture import text_architecture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRef:
    """Reference to one model of an evaluation or audit."""

    name: str
    """`base`, `step 200`, or the folder of a model."""
    step: int | None
    """Of a checkpoint of the run."""
    folder: Path | None
    """The checkpoint, or the model folder; ``None`` for the base model."""


class LoadedModel(NamedTuple):
    """A model that is ready for ``generate``, and its tokenizer."""

    model: Any
    """A causal language model of transformers, in evaluation mode, with a cache."""
    tokenizer: Any
    """Its chat template writes the format that the run trains, whatever model it is."""


def find_models(run: RunDir, names: Sequence[str]) -> list[ModelRef]:
    """The models of ``names``: `base`, `latest`, `best`, a step (`200`, `step-200`), or a model folder.

    Each model once, in this order. ``UserError`` for names of no model.
    """
    return list(dict.fromkeys(_find(run, name) for name in names))


def open_model_ref(run: RunDir, ref: ModelRef, device: torch.device | str) -> LoadedModel:
    """The model of ``ref``, ready for ``generate``, and the tokenizer of the run for conversations.

    The base of a `scratch` recipe has its seeded random weights. Replies end where the run's format ends
    them. ``UserError`` where weights or the pack's tokenizer are gone.
    """
    return for_generation(run, open_packed(run, ref, device))


def for_generation(run: RunDir, model: Any) -> LoadedModel:
    """Prepare a model of ``open_packed`` for generation; no weight is copied."""
    recipe, tokenizer = run.plan().recipe, packed_tokenizer(run)
    if model.config._attn_implementation == "varlen":
        _warn_once("replies are generated with attention sdpa: varlen has no KV cache")
        model.config._attn_implementation = "sdpa"
    model = unpacked_model(model)
    saved = model.generation_config.to_diff_dict()
    model.generation_config = GenerationConfig(**generation_settings(saved, tokenizer, recipe.data))
    model.config.use_cache = True
    return LoadedModel(model, tokenizer_for_chat(tokenizer, recipe.data, refuse_merging=False))


def open_packed(run: RunDir, ref: ModelRef, device: torch.device | str) -> Any:
    """The model of ``ref`` as ``Packed``, which takes packed rows: whole, in evaluation mode."""
    prepare_attention(torch.device(device).type)
    trained, tokenizer = plan_here(run, device).recipe, packed_tokenizer(run)
    recipe = _without_adapters(trained)
    if ref.step is not None:
        assert ref.folder is not None, "a step has a checkpoint"
        with reading(ref.folder):
            adapted = trained.model.lora is not None
            read = merged_model if adapted else _of_checkpoint
            model = read(trained if adapted else recipe, tokenizer, ref.folder)
    elif ref.folder is not None:
        model = load_model(_of_folder(recipe, ref.folder), tokenizer)
    else:
        model = load_model(recipe, tokenizer)
    return _moved(model, torch.device(device), recipe.model.dtype)


def open_sharded(run: RunDir, ref: ModelRef, device: torch.device) -> Any:
    """The same, sharded over all ranks; for a full fine-tune. Collective."""
    prepare_attention(device.type)
    recipe, tokenizer = _without_adapters(plan_here(run, device).recipe), packed_tokenizer(run)
    if ref.step is None:
        named = recipe if ref.folder is None else _of_folder(recipe, ref.folder)
        return shard(open_model(named, tokenizer), device, recipe.model.dtype)
    assert ref.folder is not None, "a step has a checkpoint"
    with reading(ref.folder):
        return shard(open_model(recipe, tokenizer), device, recipe.model.dtype, ref.folder)


def plan_here(run: RunDir, device: torch.device | str) -> Plan:
    """The run's plan as it can be carried out on ``device``: FlashAttention needs a GPU."""
    plan = run.plan()
    attention = plan.recipe.model.attention
    if torch.device(device).type != "cpu" or attention not in TAKES_BOUNDARIES:
        return plan
    _warn_once(f"attention is sdpa: {attention}, which the run was trained with, needs a GPU")
    model = plan.recipe.model.model_copy(update={"attention": "sdpa"})
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"model": model})})


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _of_folder(recipe: Recipe, folder: Path) -> Recipe:
    model = ModelRecipe(id=str(folder), attention=recipe.model.attention, dtype=recipe.model.dtype)
    return recipe.model_copy(update={"model": model})


def _moved(model: Any, device: torch.device, dtype: str) -> Any:
    """``model`` on ``device``. Buffers keep their type: rotary frequencies in bfloat16 misplace tokens."""
    if device.type != "cpu":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(device, getattr(torch, dtype))
    return model.to(device).eval().requires_grad_(False)


def _without_adapters(recipe: Recipe) -> Recipe:
    """The same on the plain base model, whose weights are not in 4 bits either."""
    changes = {"lora": None, "quantization": None, "activation_checkpointing": False}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)})


def _of_checkpoint(recipe: Recipe, _tokenizer: Any, folder: Path) -> Any:
    """The model of a full fine-tune."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model_class = packed_class(text_architecture(config, str(folder)).model_class)
    model = init_on_meta(model_class, config, recipe.model.attention)
    allocate_parameters(model, torch.device("cpu"), torch.float32)
    weights, places = trained_weights(recipe, folder), model.state_dict()
    for name in weights.shapes:
        places[name].copy_(weights.fetch([name])[name])
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _find(run: RunDir, name: str) -> ModelRef:
    folder = Path(name).expanduser()
    if not is_checkpoint_name(name):
        if (folder / "config.json").is_file():
            return ModelRef(str(folder), None, folder)
        raise UserError(
            f"{name}: is neither a model folder (no config.json) nor a step, latest, best or base"
        )
    found = resolve_checkpoint(run, name)
    if found is None:
        return ModelRef(BASE, None, None)
    folder, manifest = found
    return ModelRef(f"step {manifest.step}", manifest.step, folder)
