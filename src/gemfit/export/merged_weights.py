"""LoRA adapters merged into their base model tensor by tensor.

Memory is the adapters and one shard in float32. A base that has no safetensors files (random weights, GGUF)
or is quantized is merged whole, in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gemfit.export.weights import Weights, merged_model, read_adapters, weights_of_model
from gemfit.schemas.recipe import Recipe

BASE_LAYER = ".base_layer.weight"
"""How peft's name of an adapted weight ends."""


def merged_weights(recipe: Recipe, tokenizer: Any, checkpoint: Path) -> Weights:
    """All weights of the text model with the adapters of ``checkpoint`` added in, computed in float32."""
    settings = recipe.model
    if settings.id is None or settings.gguf_file is not None or settings.quantization is not None:
        return weights_of_model(merged_model(recipe, tokenizer, checkpoint))
    return _merged_when_fetched(recipe, tokenizer, checkpoint)


def _merged_when_fetched(recipe: Recipe, tokenizer: Any, checkpoint: Path) -> Weights:
    from gemfit.train.model.build import open_model  # noqa: PLC0415  (imports peft, which only adapters need)
    from gemfit.train.model.sharded_init import base_name  # noqa: PLC0415

    model, base = open_model(recipe, tokenizer)
    assert base is not None, "a base with safetensors files"
    read_adapters(model, checkpoint)
    tensors = dict(model.named_parameters())
    state = model.state_dict()
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in state}
    held: dict[str, str] = {}
    for name, tensor in tensors.items():
        # Of a module that is trained whole, the copy counts, which is the one in memory.
        if (found := base_name(name)) is not None and (found not in held or not tensor.is_meta):
            held[found] = name

    def fetch(names: list[str]) -> dict[str, torch.Tensor]:
        return {name: one(name) for name in names}

    def one(name: str) -> torch.Tensor:
        tensor: torch.Tensor = tensors[held[name]]
        if not tensor.is_meta:
            return tensor.detach()
        weight = base.whole(name, torch.float32, torch.device("cpu"))
        path, adapted, _ = held[name].rpartition(BASE_LAYER)
        return merge_into(weight, model.get_submodule(path)) if adapted else weight

    return Weights({name: tensors[held[name]].shape for name in held}, fetch)


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
