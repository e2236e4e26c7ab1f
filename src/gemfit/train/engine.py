"""What the engines need besides accelerate's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy

from gemfit.plan import Plan
from gemfit.strategy import Fsdp


def fsdp_plugin(plan: Plan) -> Any:
    """accelerate's FSDP plugin as its configuration says, with gradients reduced in float32.

    accelerate would reduce in the compute type: bfloat16 sums over many ranks lose what a small
    learning rate adds.
    """
    strategy = plan.recipe.strategy
    assert isinstance(strategy, Fsdp)
    plugin = FullyShardedDataParallelPlugin()
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
