"""Load models of a run: its base model, its checkpoints, or any model folder, in the run's format.

A checkpoint is read straight into a model, without an export. On a GPU a model computes in the recipe's
type, on a CPU in float32, which most CPUs are fastest in. Weights are allocated there, in that type, and read
one after the other: host memory holds one of them at a time, and no second copy of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, GenerationConfig

from gemfit.checkpoint.resolve_checkpoint import BASE, is_checkpoint_name, resolve_checkpoint
from gemfit.checkpoint.retention import reading
from gemfit.errors import UserError
from gemfit.evaluate.sharded import WeightSource, fill_shards, shard
from gemfit.export.chat_template import generation_settings, tokenizer_for_chat
from gemfit.export.export import packed_tokenizer
from gemfit.export.merged_weights import merged_weights
from gemfit.export.weights import untrained_buffers
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import HardwareRecord
from gemfit.schemas.metrics_history import plan_as_trained, read_records
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_model import TAKES_BOUNDARIES, ModelRecipe
from gemfit.train.distributed.meta_init import allocate_parameters, init_on_meta
from gemfit.train.model.attention_checks import prepare_attention
from gemfit.train.model.attention_probe import fault_of_varlen
from gemfit.train.model.build import open_model
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
    """The model of ``ref`` as ``Packed``, which takes packed rows: whole, in evaluation mode.

    Collective where there is a process group.
    """
    device = torch.device(device)
    dtype = compute_dtype(device, run.plan().recipe)
    with _opened(run, ref, device) as (model, weights):
        _check_kernel(model, device)
        allocate_parameters(model, device, dtype)
        fill_shards(model, weights)
    return _moved(model, device, dtype)


def open_sharded(run: RunDir, ref: ModelRef, device: torch.device) -> Any:
    """The same, sharded over all ranks. Collective."""
    with _opened(run, ref, device) as (model, weights):
        _check_kernel(model, device)
        return shard(model, weights, device, compute_dtype(device, run.plan().recipe))


def compute_dtype(device: torch.device, recipe: Recipe) -> torch.dtype:
    """The type that a model of ``recipe`` is evaluated in on ``device``."""
    return torch.float32 if device.type == "cpu" else getattr(torch, recipe.model.dtype)


def plan_here(run: RunDir, device: torch.device | str) -> Plan:
    """The run's plan, with the attention that was trained with, as ``device`` can carry it out.

    FlashAttention needs a GPU.
    """
    plan = run.plan()
    if plan.attention_if_proven is not None and run.metrics_file.is_file():
        records = read_records(run.metrics_file)
        plan = plan_as_trained(plan, (one for one in records if isinstance(one, HardwareRecord)))
    attention = plan.recipe.model.attention
    if torch.device(device).type != "cpu" or attention not in TAKES_BOUNDARIES:
        return plan
    _warn_once(f"attention is sdpa: {attention}, which the run was trained with, needs a GPU")
    model = plan.recipe.model.model_copy(update={"attention": "sdpa"})
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"model": model})})


def _check_kernel(model: Any, device: torch.device) -> None:
    """Let ``model`` compute with sdpa where this GPU is not the kind that proved varlen."""
    if model.config._attn_implementation != "varlen" or device.type == "cpu":
        return
    if (fault := fault_of_varlen(model, device)) is not None:
        _warn_once(f"attention is sdpa: varlen, which the run was trained with, cannot be used here: {fault}")
        model.config._attn_implementation = "sdpa"


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


@contextmanager
def _opened(run: RunDir, ref: ModelRef, device: torch.device) -> Iterator[tuple[Any, WeightSource]]:
    """The model of ``ref`` on the meta device and its weights, which can be read inside.

    Without a source the parameters have their values, in float32 on the CPU.
    """
    prepare_attention(device.type)
    trained, tokenizer = plan_here(run, device).recipe, packed_tokenizer(run)
    recipe = _without_adapters(trained)
    if ref.step is None:
        yield open_model(recipe if ref.folder is None else _of_folder(recipe, ref.folder), tokenizer)
        return
    assert ref.folder is not None, "a step has a checkpoint"
    with reading(ref.folder):
        if trained.model.lora is None:
            yield _of_checkpoint(recipe, ref.folder), ref.folder
        else:
            merged = merged_weights(trained, tokenizer, ref.folder, device)
            yield open_model(recipe, tokenizer).model, merged


def _of_folder(recipe: Recipe, folder: Path) -> Recipe:
    model = ModelRecipe(id=str(folder), attention=recipe.model.attention, dtype=recipe.model.dtype)
    return recipe.model_copy(update={"model": model})


def _moved(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """``model`` on ``device``. Buffers keep their type: rotary frequencies in bfloat16 misplace tokens."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device, dtype)
    return model.to(device).eval().requires_grad_(False)


def _without_adapters(recipe: Recipe) -> Recipe:
    """The same on the plain base model, whose weights are not in 4 bits either."""
    changes = {"lora": None, "quantization": None, "activation_checkpointing": False}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)})


def _of_checkpoint(recipe: Recipe, folder: Path) -> Any:
    """The model of a full fine-tune, on the meta device; its base may be gone."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model_class = packed_class(text_architecture(config, str(folder)).model_class)
    model = init_on_meta(model_class, config, recipe.model.attention)
    buffers, places = untrained_buffers(recipe, folder), dict(model.named_buffers())
    for name in buffers.shapes:
        places[name].copy_(buffers.fetch([name])[name])
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
