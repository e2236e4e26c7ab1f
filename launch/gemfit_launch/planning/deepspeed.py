"""The configuration that DeepSpeed reads, from the strategy alone."""

from __future__ import annotations

from typing import Any

from gemfit.schemas.batch import Batch
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import DeepSpeed


def deepspeed_config(strategy: DeepSpeed, recipe: Recipe, batch: Batch) -> dict[str, Any]:
    """A complete DeepSpeed JSON: nothing in it is `auto`."""
    bf16 = recipe.model.dtype == "bfloat16"
    return {
        "train_micro_batch_size_per_gpu": batch.per_device_batch_size,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        # DeepSpeed counts idle slots, which hold empty rows, and every rank of those that share a row.
        "train_batch_size": batch.slots * batch.sequence_parallel,
        "gradient_clipping": recipe.optim.max_grad_norm,
        "bf16": {"enabled": bf16},
        "fp16": {"enabled": False},
        **(_float32_sums(strategy) if bf16 else {}),
        "zero_optimization": _zero(strategy),
        # torch's AdamW is the optimizer of every strategy; DeepSpeed's own CPU Adam needs a compiler
        # on the node and rounds differently.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _float32_sums(strategy: DeepSpeed) -> dict[str, Any]:
    """Add gradients up in float32, over accumulation steps and over ranks, as FSDP2 and DDP do."""
    if strategy.stage == 1:
        # DeepSpeed would then take another optimizer, whose state no portable checkpoint can hold.
        return {}
    return {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}


def _zero(strategy: DeepSpeed) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": strategy.stage, "overlap_comm": True, "contiguous_gradients": True}
    if strategy.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if strategy.offload_params:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if strategy.stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = False
    return zero
