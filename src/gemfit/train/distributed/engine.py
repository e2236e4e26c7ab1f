"""Set-up of FSDP2 and DeepSpeed engines beyond accelerate's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy

from gemfit.schemas.plan import Plan
from gemfit.schemas.strategy import DeepSpeed, Fsdp
from gemfit.train.distributed.meta_init import allocate_parameters, fsdp2_from_meta, zero3_from_meta


def allocate_unsharded(model: torch.nn.Module, plan: Plan, device: torch.device) -> None:
    """Allocate all parameters where the strategy does not shard them, before ``Trainer`` moves the model."""
    strategy = plan.recipe.strategy
    if isinstance(strategy, Fsdp) or is_zero3(plan):
        return
    # DeepSpeed casts the model and holds separate fp32 masters; elsewhere the parameters are the masters.
    is_cast = isinstance(strategy, DeepSpeed) and plan.recipe.model.dtype == "bfloat16"
    allocate_parameters(model, device, torch.bfloat16 if is_cast else torch.float32)


@contextmanager
def sharded_init(model: torch.nn.Module, plan: Plan, device: torch.device) -> Iterator[None]:
    """Prepare an engine that shards parameters inside, without the whole model in memory."""
    strategy = plan.recipe.strategy
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if on_meta and isinstance(strategy, Fsdp):
        with fsdp2_from_meta(model, torch.device("cpu") if strategy.offload else device):
            yield
        return
    if on_meta and is_zero3(plan):
        assert plan.deepspeed is not None
        zero3_from_meta(model, plan.deepspeed, getattr(torch, plan.recipe.model.dtype))
    yield


def is_zero3(plan: Plan) -> bool:
    """Whether DeepSpeed shards the parameters."""
    strategy = plan.recipe.strategy
    return isinstance(strategy, DeepSpeed) and strategy.stage == 3


def fsdp_plugin(plan: Plan, layers: list[str]) -> Any:
    """accelerate's FSDP plugin as configured, with gradients reduced in float32.

    ``layers`` are the class names of the model's decoder layers, the units of sharding.

    accelerate would reduce in the compute dtype: bfloat16 sums over many ranks lose what a small
    learning rate adds.
    """
    strategy = plan.recipe.strategy
    assert isinstance(strategy, Fsdp)
    plugin = FullyShardedDataParallelPlugin(transformer_cls_names_to_wrap=layers)
    if plan.recipe.model.dtype == "bfloat16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None
        )
    if strategy.offload:
        # Memory can be pinned only where there is a GPU.
        plugin.cpu_offload = CPUOffloadPolicy(pin_memory=plan.topology.device == "cuda")
    return plugin


@contextmanager
def restored_buffers(model: torch.nn.Module) -> Iterator[None]:
    """Restore the dtype of buffers after an engine has been prepared inside.

    DeepSpeed casts the whole module, and rotary frequencies in bfloat16 give wrong positions after a few
    hundred tokens.
    """
    owners = [
        (module, name, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    yield
    for module, name, original in owners:
        current = getattr(module, name)
        if current.dtype != original.dtype:
            setattr(module, name, original.to(current.device))


def reshard(model: torch.nn.Module) -> None:
    """Reshard parameters that FSDP2 has gathered; no effect on other engines.

    After a forward pass without a backward pass the root's parameters stay gathered, and are then not
    those of the optimizer and the checkpoint.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
