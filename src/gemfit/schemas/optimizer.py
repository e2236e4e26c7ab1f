"""Settings of speed that follow from a recipe and where it runs: plans show them, the training uses them."""

from __future__ import annotations

from gemfit.schemas.batch import Batch
from gemfit.schemas.plan import Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import DeepSpeed, Fsdp

OPTIMIZERS = {
    "adamw_torch_fused": "AdamW, all parameters in one kernel",
    "adamw_torch": "AdamW, parameters in groups",
}
"""Names in ``TrainingArguments.optim``, and what they are."""


def optimizer_of(recipe: Recipe, topology: Topology) -> str:
    """Which of torch's AdamW steps the parameters.

    The fused one of CPUs rounds otherwise than the plain one, and is not worth it there.
    """
    strategy = recipe.strategy
    on_host = (isinstance(strategy, Fsdp) and strategy.offload) or (
        isinstance(strategy, DeepSpeed) and (strategy.offload_optimizer or strategy.offload_params)
    )
    return "adamw_torch" if topology.device == "cpu" or on_host else "adamw_torch_fused"


def prefetch_depth(batch: Batch) -> int:
    """Batches that each rank prefetches: those of one optimizer step, at least two."""
    return max(2, batch.gradient_accumulation_steps)
