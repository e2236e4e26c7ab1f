"""Load base weights into a prepared engine: each rank fills its own shards.

Weights are read after the engine is prepared, straight into its fp32 masters, and not at all where a
checkpoint holds them. Nothing is communicated, apart from what DeepSpeed needs to update its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch.distributed.tensor import DTensor

from gemfit.train.checkpoint import deepspeed_zero
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.engine_state import is_deepspeed, local_shard
from gemfit.train.collective import in_rounds
from gemfit.train.model.adapters import MAGNITUDE, magnitude_owner, row_norms
from gemfit.train.model.safetensors_reader import BaseWeights

ADAPTER = "lora_"
WRAPPERS = (
    "_checkpoint_wrapped_module.",
    "base_model.model.",
    "base_layer.",
    "original_module.",
    "modules_to_save.default.",
)
"""What activation checkpointing and peft add to the names of the base model's parameters."""


@runtime_checkable
class QuantizesWeight(Protocol):
    """A layer whose weight is held in fewer bits than it has on disk."""

    def quantize(self, weight: torch.Tensor) -> torch.Tensor:
        """The packed bits of a whole weight, in the dtype of the parameter that stores them."""

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """The values of a whole weight in these bits; the layer is left as it is."""


def load_into(model: torch.nn.Module, weights: BaseWeights) -> None:
    """Fill a whole, unwrapped model, except for the low-rank matrices of its adapters."""
    for name, parameter in model.named_parameters():
        if _comes_from_base(name):
            _fill(model, name, weights, [FlatShard(parameter.detach().view(-1), 0, parameter.shape)])


def load_buffers(model: torch.nn.Module, weights: BaseWeights) -> None:
    """Fill the buffers that the base checkpoint holds; they are few and small."""
    for name, buffer in model.named_buffers():
        if name in weights.entries:
            weights.fill_whole(name, buffer)


def load_into_engine(
    engine: Any,
    module: torch.nn.Module,
    weights: BaseWeights,
    *,
    trained: bool,
    heartbeat: Callable[[], None] = lambda: None,
) -> None:
    """Fill this rank's shards of a prepared model: frozen parameters, and trained ones if ``trained``.

    ``module`` is the model inside ``engine``. Collective:
    a file that one rank cannot read is an error on all ranks. ``heartbeat`` is called meanwhile.
    """

    def fill() -> Generator[None, None, None]:
        for name, parameter in module.named_parameters():
            if _comes_from_base(name) and (trained or not parameter.requires_grad):
                _fill(module, name, weights, _shards(engine, parameter))
                yield

    in_rounds(fill(), heartbeat)
    if is_deepspeed(engine):
        deepspeed_zero.sync_parameters(engine, 0) if trained else deepspeed_zero.regather_persistent(engine)


def _fill(module: torch.nn.Module, name: str, weights: BaseWeights, shards: Iterable[FlatShard]) -> None:
    """Read ``shards`` of parameter ``name`` of ``module``; a quantized one is read whole and then cut."""
    if MAGNITUDE in name:
        _fill_magnitudes(module, name, weights, shards)
        return
    base, owner = base_name(name), module.get_submodule(name.rpartition(".")[0])
    assert base is not None, "adapters are not in the base"
    if not (isinstance(owner, QuantizesWeight) and name.endswith(".weight")):
        for shard in shards:
            weights.fill(base, shard)
        return
    for shard in shards:
        # Scales belong to blocks that a shard may cut, so every rank computes them all.
        bits = owner.quantize(weights.whole(base, shard.flat.dtype, shard.flat.device)).view(-1)
        shard.flat.copy_(bits[shard.start : shard.start + shard.flat.numel()])


@torch.no_grad()
def _fill_magnitudes(
    module: torch.nn.Module, name: str, weights: BaseWeights, shards: Iterable[FlatShard]
) -> None:
    """DoRA's magnitudes: row norms of the weight that the layer computes with, read for these rows alone."""
    layer, base = magnitude_owner(module, name), base_name(f"{name.partition(f'.{MAGNITUDE}.')[0]}.weight")
    assert base is not None, "a layer of the base model"
    for shard in shards:
        rows, inputs, dtype = shard.flat.numel(), layer.in_features, layer.weight.dtype
        if isinstance(layer, QuantizesWeight):
            whole = layer.rounded(weights.whole(base, dtype, shard.flat.device))
            weight = whole[shard.start : shard.start + rows]
        else:
            weight = torch.empty(rows, inputs, dtype=dtype, device=shard.flat.device)
            shape = torch.Size((layer.out_features, inputs))
            weights.fill(base, FlatShard(weight.view(-1), shard.start * inputs, shape))
        shard.flat.copy_(row_norms(weight))


def _comes_from_base(name: str) -> bool:
    """Whether the first value of parameter ``name`` is read, or computed, from the base weights."""
    return base_name(name) is not None or MAGNITUDE in name


def base_name(name: str) -> str | None:
    """The base model's name of a parameter, or of a copy of it; ``None`` for an adapter's own."""
    if ADAPTER in name:
        return None
    for added in WRAPPERS:
        name = name.replace(added, "")
    return name


def _shards(engine: Any, parameter: Any) -> Iterator[FlatShard]:
    """This rank's memory of ``parameter``: the fp32 master where it is separate from the weight."""
    if isinstance(parameter, DTensor):
        yield local_shard(parameter)
    elif is_deepspeed(engine) and parameter.requires_grad:
        if (fragment := deepspeed_zero.fragment_of(engine, parameter)) is not None:
            yield fragment.of(fragment.flat, deepspeed_zero.shape_of(parameter))
    elif hasattr(parameter, "ds_tensor"):
        yield deepspeed_zero.frozen_shard(parameter)
    else:
        yield FlatShard(parameter.detach().view(-1), 0, parameter.shape)
