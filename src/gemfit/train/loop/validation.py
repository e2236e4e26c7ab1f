"""Loss, perplexity and token accuracy on the held-out rows.

Every rank takes the same number of batches, some of them empty. No logits are kept: the cost in memory
is that of one slice of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from gemfit.train.data.collate import Tensors
from gemfit.train.distributed.stop import Stop
from gemfit.train.model.packed_lm import IGNORED


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the held-out rows gave."""

    loss: float
    """Mean cross-entropy over all trained tokens, in nats."""
    token_accuracy: float
    """Share of trained tokens that were the most likely one, 0 to 1."""
    tokens: int

    @property
    def perplexity(self) -> float:
        # exp of more than 709 does not fit into a float.
        return math.exp(min(self.loss, 700.0))


def measure(
    model: Any, batches: Iterable[Tensors], *, stop: Stop, step: int, device: torch.device
) -> HeldOut | None:
    """Evaluate the wrapped ``model``; ``None`` when the ranks agreed to stop meanwhile. Collective."""
    loss, correct, tokens = 0.0, 0.0, 0.0
    model.eval()
    with torch.no_grad():
        for batch in batches:
            inputs = to_device(batch, device)
            losses = model(**inputs)
            sums = (losses.loss_sum, losses.correct, (inputs["targets"] != IGNORED).sum())
            summed = stop.agree(step, *(float(value) for value in sums))
            loss, correct, tokens = (
                total + more for total, more in zip((loss, correct, tokens), summed, strict=True)
            )
            if stop.agreed:
                return None
    return HeldOut(loss=loss / tokens, token_accuracy=correct / tokens, tokens=round(tokens))


def to_device(batch: Tensors, device: torch.device) -> dict[str, Any]:
    """``batch`` with its tensors on ``device``; from pinned memory they are copied while it computes."""
    return {
        key: v.to(device, non_blocking=v.is_pinned()) if isinstance(v, torch.Tensor) else v
        for key, v in batch.items()
    }
