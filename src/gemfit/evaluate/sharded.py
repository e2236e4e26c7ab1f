"""Shard a model over all ranks by FSDP2, for models that one GPU does not hold.

Each rank allocates and reads its shards only, in float32, and computes in the recipe's type, as training
does. Every forward pass is collective: all ranks make the same number of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from gemfit.schemas.plan import Plan
from gemfit.schemas.strategy import DeepSpeed, Fsdp
from gemfit.train.checkpoint.engine_state import WEIGHT_PREFIX, local_shard, read
from gemfit.train.collective import world_size
from gemfit.train.model.build import OpenedModel
from gemfit.train.model.sharded_init import load_into_engine
from gemfit.train.model.text_architecture import decoder_layers


def is_sharded(plan: Plan) -> bool:
    """Whether ranks share one copy: where training shards parameters too, and there are no adapters."""
    strategy = plan.recipe.strategy
    shards = isinstance(strategy, Fsdp) or (isinstance(strategy, DeepSpeed) and strategy.stage == 3)
    return world_size() > 1 and shards and plan.recipe.model.lora is None


def shard(opened: OpenedModel, device: torch.device, dtype: str, checkpoint: Any = None) -> Any:
    """The model in shards, with its base weights, or with those of ``checkpoint``. Collective.

    ``opened`` has no memory for its parameters, or the same values on every rank.
    """
    model, base = opened
    model.requires_grad_(False)
    policy = MixedPrecisionPolicy(param_dtype=None if device.type == "cpu" else getattr(torch, dtype))
    # By default over the kind of device that torch is built for, whichever one is meant here.
    options: dict[str, Any] = {"mp_policy": policy, "mesh": init_device_mesh(device.type, (world_size(),))}
    layers = decoder_layers(model)
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, **options)
    fully_shard(model, **options)
    model._apply(lambda t: torch.full_like(t, torch.nan, device=device) if t.is_meta else t.to(device))
    if checkpoint is not None:
        read({WEIGHT_PREFIX + name: local_shard(p) for name, p in model.named_parameters()}, checkpoint)
    elif base is not None:
        load_into_engine(model, model, base, trained=True)
    return model.eval()
