"""What the engines need besides accelerate's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy

from gemfit.schemas.plan import Plan
from gemfit.schemas.strategy import DeepSpeed, Fsdp
from gemfit.train.model.sharded_init import materialise, partition, sharded_from_meta


def place(model: torch.nn.Module, plan: Plan, device: torch.device) -> None:
    """Allocate the parameters of a strategy that shards none, before ``Trainer`` moves the model."""
    strategy = plan.recipe.strategy
    if isinstance(strategy, Fsdp) or is_zero3(plan):
        return
    # DeepSpeed casts the model and keeps fp32 masters of its own; elsewhere the parameters are these.
    is_cast = isinstance(strategy, DeepSpeed) and plan.recipe.model.dtype == "bfloat16"
    materialise(model, device, torch.bfloat16 if is_cast else torch.float32)


@contextmanager
def sharded(model: torch.nn.Module, plan: Plan, device: torch.device) -> Iterator[None]:
    """Let an engine that shards parameters be prepared inside, without the whole model in memory."""
    strategy = plan.recipe.strategy
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if on_meta and isinstance(strategy, Fsdp):
        with sharded_from_meta(model, torch.device("cpu") if strategy.offload else device):
            yield
        return
    if on_meta and is_zero3(plan):
        assert plan.deepspeed is not None
        partition(model, plan.deepspeed, getattr(torch, plan.recipe.model.dtype))
    yield


def is_zero3(plan: Plan) -> bool:
    """Whether DeepSpeed shards parameters too."""
    strategy = plan.recipe.strategy
    return isinstance(strategy, DeepSpeed) and strategy.stage == 3


def fsdp_plugin(plan: Plan, layers: list[str]) -> Any:
    """accelerate's FSDP plugin as its configuration says, with gradients reduced in float32.

    ``layers`` are the classes of the model's decoder layers, which its configuration leaves open.

    accelerate would reduce in the compute type: bfloat16 sums over many ranks lose what a small
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
        # Pinned memory is a means of copying to a GPU; without one there is none to be had.
        plugin.cpu_offload = CPUOffloadPolicy(pin_memory=plan.topology.device == "cuda")
    return plugin


@contextmanager
def restored_buffers(model: torch.nn.Module) -> Iterator[None]:
    """Give buffers their type back after an engine has been prepared inside.

    DeepSpeed casts the whole module, and rotary frequencies in bfloat16 misplace tokens after a few
    hundred positions.
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
    """Shard again what FSDP2 has gathered; other engines are left alone.

    After a forward pass without a backward one the root's parameters stay gathered, and are then not
    those that the optimizer and the checkpoint know.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
