"""Convert a checkpoint to safetensors, one shard at a time.

Weights are read tensor by tensor: memory is one shard in float32, whatever the model's size. Adapters are
merged in the same way by ``merged_weights``; ``merged_model``, for a base without files, holds 4 bytes per
parameter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from gemfit.core.os_errors import raise_os_error
from gemfit.schemas.recipe import Recipe
from gemfit.train.checkpoint.engine_state import WEIGHT_PREFIX, read
from gemfit.train.checkpoint.safe_reader import SafeReader

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors that may be too many to be in memory at once."""

    shapes: Mapping[str, torch.Size]
    fetch: Callable[[list[str]], dict[str, torch.Tensor]]
    """Those tensors, in float32 or in their own type."""
    types: Mapping[str, torch.dtype] = field(default_factory=dict)
    """Of those that keep their own type; all others are cast to the one that is asked for."""


def weights_of_checkpoint(checkpoint: Path) -> Weights:
    """The model of a full fine-tune, read from its checkpoint when asked for."""
    reader = SafeReader(checkpoint)
    metadata = reader.read_metadata().state_dict_metadata
    shapes = {
        name.removeprefix(WEIGHT_PREFIX): entry.size
        for name, entry in metadata.items()
        if name.startswith(WEIGHT_PREFIX) and isinstance(entry, TensorStorageMetadata)
    }

    def fetch(names: list[str]) -> dict[str, torch.Tensor]:
        tensors = {name: torch.empty(shapes[name], dtype=torch.float32) for name in names}
        read({WEIGHT_PREFIX + name: tensor for name, tensor in tensors.items()}, reader)
        return tensors

    return Weights(shapes, fetch)


def weights_of_model(model: torch.nn.Module) -> Weights:
    """A model in memory. Tied weights appear once, under their first name."""
    state = model.state_dict()
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in state}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Weights(shapes, lambda names: {name: tensors[name] for name in names})


def trained_weights(recipe: Recipe, checkpoint: Path) -> Weights:
    """All weights of the text model after a full fine-tune."""
    return together(weights_of_checkpoint(checkpoint), untrained_buffers(recipe, checkpoint))


def merged_model(recipe: Recipe, tokenizer: Any, checkpoint: Path) -> Any:
    """The base model with the adapters of ``checkpoint`` added in: float32, on the CPU."""
    from gemfit.train.model.build import load_model  # noqa: PLC0415  (imports peft, which only adapters need)

    model = load_model(recipe, tokenizer)
    _read_trained(model, checkpoint)
    if recipe.model.quantization is not None:
        from gemfit.train.model.qlora import dequantize  # noqa: PLC0415  (imports bitsandbytes)

        dequantize(model)  # to what the adapters were trained on, which is not what the base has on disk
    return model.merge_and_unload()


def write_adapter(recipe: Recipe, tokenizer: Any, checkpoint: Path, folder: Path, dtype: str) -> int:
    """Write the adapters alone, as peft reads them; returns the number of their parameters."""
    from gemfit.train.model.build import open_model  # noqa: PLC0415  (imports peft)

    # The adapters are the same over 4 bits, and reading them needs no bitsandbytes.
    plain = recipe.model.model_copy(update={"quantization": None})
    model = open_model(recipe.model_copy(update={"model": plain}), tokenizer).model
    read_adapters(model, checkpoint)
    model.to(getattr(torch, dtype)).save_pretrained(str(folder))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def read_adapters(model: Any, checkpoint: Path, device: torch.device = CPU) -> None:
    """What is trained of ``model``, read into float32 on ``device``; the rest stays on the meta device."""
    from gemfit.train.distributed.meta_init import allocate_parameters  # noqa: PLC0415  (imports accelerate)

    allocate_parameters(model, device, torch.float32, which=_is_trained)
    for parameter in filter(_is_trained, model.parameters()):
        parameter.data = parameter.data.to(device)  # matrices that are no copies are real already
    _read_trained(model, checkpoint)


def _is_trained(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


def _read_trained(model: Any, checkpoint: Path) -> None:
    trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    read({WEIGHT_PREFIX + name: parameter.detach() for name, parameter in trained}, checkpoint)


def untrained_buffers(recipe: Recipe, checkpoint: Path) -> Weights:
    """Persistent buffers of the model, which some have: not trained, so they are the base's."""
    from gemfit.train.model.build import open_base, persistent_buffers  # noqa: PLC0415  (imports peft)

    if recipe.model.id is None or recipe.model.gguf_file is not None or not persistent_buffers(checkpoint):
        return Weights({}, lambda names: {})
    model = open_base(recipe.model).model
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    return Weights(
        {name: buffer.shape for name, buffer in buffers.items()},
        lambda names: {name: buffers[name] for name in names},
    )


def together(one: Weights, other: Weights) -> Weights:
    """Two sets of weights, without a common name, as one."""

    def fetch(names: list[str]) -> dict[str, torch.Tensor]:
        parts = (part.fetch([name for name in names if name in part.shapes]) for part in (one, other))
        return {name: tensor for part in parts for name, tensor in part.items()}

    return Weights({**one.shapes, **other.shapes}, fetch, {**one.types, **other.types})


def write_weights(weights: Weights, folder: Path, dtype: torch.dtype, *, shard_bytes: int) -> int:
    """Write ``model.safetensors``, or numbered shards and their index; returns the number of elements.

    A full disk, or one that fails, is an ``OSError``.
    """
    types = {name: weights.types.get(name, dtype) for name in weights.shapes}
    sizes = {name: math.prod(shape) * types[name].itemsize for name, shape in weights.shapes.items()}
    shards = plan_shards(sizes, shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: tensor.to(types[name]).contiguous() for name, tensor in weights.fetch(names).items()}
        _save(tensors, folder / file)
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return sum(shape.numel() for shape in weights.shapes.values())


def plan_shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Consecutive names, as many to a shard as fit ``limit``; a larger tensor has one of its own."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise_os_error(error, path)
        raise
