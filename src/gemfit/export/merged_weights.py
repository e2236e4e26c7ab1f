"""LoRA adapters merged into their base model tensor by tensor.

Memory is the adapters and one shard in float32. A base that has no safetensors files (random weights, GGUF)
is merged whole, in host memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gemfit.export.weights import CPU, Weights, merged_model, read_adapters, weights_of_model
from gemfit.schemas.recipe import Recipe

BASE_LAYER = ".base_layer.weight"
"""How peft's name of an adapted weight ends."""


def merged_weights(recipe: Recipe, tokenizer: Any, checkpoint: Path, device: torch.device = CPU) -> Weights:
    """All weights of the text model with the adapters of ``checkpoint`` added in, computed in float32.

    ``device`` is where that is computed, and where ``fetch`` leaves a weight.
    """
    if recipe.model.id is None or recipe.model.gguf_file is not None:
        return weights_of_model(merged_model(recipe, tokenizer, checkpoint))
    return _merged_when_fetched(recipe, tokenizer, checkpoint, device)


def _merged_when_fetched(recipe: Recipe, tokenizer: Any, checkpoint: Path, device: torch.device) -> Weights:
    from gemfit.train.model.build import open_model  # noqa: PLC0415  (imports peft, which only adapters need)

    # The adapters are the same over 4 bits.
    plain = recipe.model.model_copy(update={"quantization": None})
    model, base = open_model(recipe.model_copy(update={"model": plain}), tokenizer)
    assert base is not None, "a base with safetensors files"
    read_adapters(model, checkpoint, device)
    tensors, held = _by_base_name(model)
    read_base = _reader_of_base(recipe, model, base, device)

    def one(name: str) -> torch.Tensor:
        tensor = tensors[held[name]]
        if not tensor.is_meta:
            return tensor.detach()
        weight = read_base(name, tensor)
        path, adapted, _ = held[name].rpartition(BASE_LAYER)
        return merge_into(weight, model.get_submodule(path)) if adapted else weight

    shapes = {name: tensors[held[name]].shape for name in held}
    return Weights(shapes, lambda names: {name: one(name) for name in names})


def _by_base_name(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Parameters and persistent buffers of an adapted model, and the name there of each one of the base."""
    from gemfit.train.model.sharded_init import base_name  # noqa: PLC0415  (imports transformers)

    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    state = model.state_dict()
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in state}
    held: dict[str, str] = {}
    for name, tensor in tensors.items():
        # Of a module that is trained whole, the copy counts, which is the one in memory.
        if (found := base_name(name)) is not None and (found not in held or not tensor.is_meta):
            held[found] = name
    return tensors, held


def _reader_of_base(
    recipe: Recipe, model: Any, base: Any, device: torch.device
) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Reads the base's value of a name, given the parameter for it: what the adapters were trained on."""
    settings = recipe.model.quantization
    if settings is None:
        return lambda name, _: base.whole(name, torch.float32, device)
    from gemfit.train.model.qlora import rounding  # noqa: PLC0415  (imports bitsandbytes)

    dtype = getattr(torch, recipe.model.dtype)
    rounded = rounding(model, settings, dtype)
    return lambda name, parameter: rounded(parameter, base.whole(name, dtype, device))


@torch.no_grad()
def merge_into(weight: torch.Tensor, layer: Any) -> torch.Tensor:
    """``weight`` (outputs, inputs) with the adapter of peft's ``layer`` added; the layer stays as it is."""
    base_layer = layer.get_base_layer()
    without_memory = base_layer.weight
    base_layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    layer.merge()
    merged: torch.Tensor = base_layer.weight.detach()
    base_layer.weight = without_memory
    layer.merged_adapters.clear()
    return merged
