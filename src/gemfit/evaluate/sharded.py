"""Fill models with weights, and shard one over all ranks by FSDP2 where one GPU does not hold it.

Each rank allocates its shards only, in float32, and computes in the recipe's type, as training does. Every
forward pass is collective: all ranks make the same number of them.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from gemfit.export.weights import Weights
from gemfit.schemas.plan import Plan
from gemfit.schemas.strategy import DeepSpeed, Fsdp
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.engine_state import WEIGHT_PREFIX, flat_shards, read
from gemfit.train.collective import in_rounds, world_size
from gemfit.train.model.safetensors_reader import BaseWeights
from gemfit.train.model.sharded_init import load_into_engine
from gemfit.train.model.text_architecture import decoder_layers

WeightSource: TypeAlias = Path | BaseWeights | Weights | None
"""Where weights are read: a checkpoint, files of a model, or adapters over them; ``None``: they are there."""


def is_sharded(plan: Plan) -> bool:
    """Whether ranks share one copy: where training shards parameters too."""
    strategy = plan.recipe.strategy
    shards = isinstance(strategy, Fsdp) or (isinstance(strategy, DeepSpeed) and strategy.stage == 3)
    return world_size() > 1 and shards


def shard(model: Any, weights: WeightSource, device: torch.device, dtype: torch.dtype) -> Any:
    """``model`` in shards, with ``weights``, computing in ``dtype``. Collective.

    It has no memory for its parameters, or the same values on every rank.
    """
    model.requires_grad_(False)
    policy = MixedPrecisionPolicy(param_dtype=None if dtype == torch.float32 else dtype)
    # By default over the kind of device that torch is built for, whichever one is meant here.
    options: dict[str, Any] = {"mp_policy": policy, "mesh": init_device_mesh(device.type, (world_size(),))}
    layers = decoder_layers(model)
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, **options)
    fully_shard(model, **options)
    model._apply(lambda t: torch.full_like(t, torch.nan, device=device) if t.is_meta else t.to(device))
    fill_shards(model, weights)
    return model.eval()


def fill_shards(model: Any, weights: WeightSource) -> None:
    """Fill what this rank holds of each parameter, in its type and on its device. Collective."""
    held = flat_shards(dict(model.named_parameters()))
    if isinstance(weights, Path):
        read({WEIGHT_PREFIX + name: place for name, place in held.items()}, weights)
    elif isinstance(weights, BaseWeights):
        load_into_engine(model, model, weights, trained=True)
    elif weights is not None:
        in_rounds(_fill_merged(held, weights))


def _fill_merged(held: dict[str, FlatShard], weights: Weights) -> Generator[None, None, None]:
    for name, place in held.items():
        whole = weights.fetch([name])[name].reshape(-1)
        place.flat.copy_(whole[place.start : place.start + place.flat.numel()])
        yield
