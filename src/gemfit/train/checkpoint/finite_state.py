"""Check before a save that weights and optimizer state are finite.

A finite gradient does not ensure it: the optimizer's own step may overflow.
"""

from __future__ import annotations

import torch

from gemfit.train.checkpoint.dcp_planner import FlatShard

RESUME_LOWER = (
    "the last checkpoint is unchanged: resume from it with a lower learning rate "
    "(--set optim.learning_rate=… --allow-changed optim.learning_rate)"
)


def check_finite_state(state: dict[str, torch.Tensor | FlatShard], step: int) -> None:
    """``FloatingPointError`` where a tensor of ``state``, in host memory after ``step``, is not finite."""
    for name, value in state.items():
        if not _is_finite(value.flat if isinstance(value, FlatShard) else value):
            raise FloatingPointError(
                f"{name} is not finite after step {step}, which is not saved; {RESUME_LOWER}"
            )


def _is_finite(values: torch.Tensor) -> bool:
    if not values.numel():
        return True
    # One pass without a temporary tensor, unlike `isfinite`; a NaN is passed on.
    low, high = torch.aminmax(values)
    return bool(torch.isfinite(low) & torch.isfinite(high))
