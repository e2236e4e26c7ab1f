"""Predicted memory and model FLOPs of a plan, for comparison with measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemfit.schemas.plan import Plan
from gemfit_launch.predict import flops
from gemfit_launch.predict.configuration import Configuration, configuration_of
from gemfit_launch.predict.memory import predict_memory
from gemfit_launch.predict.shape_lookup import find_shape

ALLOWANCES = ("fragmentation", "context")
"""Parts of a prediction that are no tensors."""

TENSORS_WITHIN = 0.10


def configuration(plan: Plan) -> Configuration:
    """The configuration of a plan whose model is on disk."""
    shape = find_shape(plan.recipe.model).shape
    assert shape is not None, "the shape is in the model's folder"
    return configuration_of(plan, shape)


def predicted_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes of tensors, and of everything, on the GPU."""
    memory = predict_memory(configuration(plan), plan.recipe.checkpoint)
    tensors = sum(part.bytes for part in memory.gpu if part.name not in ALLOWANCES)
    return tensors, memory.gpu_bytes


def tensors_fault(one: Mapping[str, Any]) -> str | None:
    """Why ``peak_tensors`` of a run is not what was predicted; ``None`` where it is, or without a GPU."""
    if one["peak_tensors"] is None:
        return None
    off = one["peak_tensors"] / one["predicted_tensors"] - 1
    return f"tensors are {off:+.0%} off the prediction" if abs(off) > TENSORS_WITHIN else None


def flops_per_token(plan: Plan) -> dict[str, float]:
    """Model FLOPs per token with and without the output layer, by the convention of predict/flops.py."""
    config = configuration(plan)
    return {
        "with_embedding": flops.model_flops(config, with_embedding=True),
        "without_embedding": flops.model_flops(config, with_embedding=False),
    }
