"""Validation loop: loss, perplexity and token accuracy on the rows of the validation split.

Every rank takes the same number of batches, some of them empty. No logits are kept: the cost in memory
is that of one loss slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from gemfit.data.document import IGNORED
from gemfit.train.data.collate import Tensors, to_device
from gemfit.train.distributed.stop import Stop


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Metrics over the labelled tokens of the validation split."""

    loss: float
    """Mean cross-entropy, in nats."""
    token_accuracy: float
    """Share of tokens whose argmax is the target, 0 to 1."""
    tokens: int

    @property
    def perplexity(self) -> float:
        # exp of more than 709 does not fit into a float.
        return math.exp(min(self.loss, 700.0))


def evaluate_rows(
    model: Any,
    batches: Iterable[Tensors],
    *,
    stop: Stop,
    step: int,
    device: torch.device,
    heartbeat: Callable[[], None] = lambda: None,
) -> ValidationResult | None:
    """Evaluate the wrapped ``model``; ``None`` when the ranks agreed to stop meanwhile. Collective.

    ``heartbeat`` is called after each batch.
    """
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
            heartbeat()
    return ValidationResult(loss=loss / tokens, token_accuracy=correct / tokens, tokens=round(tokens))
