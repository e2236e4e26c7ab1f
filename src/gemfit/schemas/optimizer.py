"""Optimizer implementation and prefetch depth, derived from a recipe and its ranks."""

from __future__ import annotations

from gemfit.schemas.batch import Batch
from gemfit.schemas.plan import Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import DeepSpeed, Fsdp

OPTIMIZERS = {
    "adamw_torch_fused": "AdamW, all parameters in one kernel",
    "adamw_torch": "AdamW, parameters in groups",
}
"""Values of ``TrainingArguments.optim`` with descriptions."""


def optimizer_of(recipe: Recipe, topology: Topology) -> str:
    """Implementation of torch's AdamW for these ranks.

    On CPUs the fused one rounds differently and is not faster.
    """
    strategy = recipe.strategy
    on_host = (isinstance(strategy, Fsdp) and strategy.offload) or (
        isinstance(strategy, DeepSpeed) and (strategy.offload_optimizer or strategy.offload_params)
    )
    return "adamw_torch" if topology.device == "cpu" or on_host else "adamw_torch_fused"


def prefetch_depth(batch: Batch) -> int:
    """Batches that each rank prefetches: those of one optimizer step, at least two."""
    return max(2, batch.gradient_accumulation_steps)
