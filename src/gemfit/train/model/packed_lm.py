"""Any causal language model for packed rows: the loss is computed where the logits are, a slice at a time.

The logits of 4 rows of 1,024 tokens over 262,144 entries are 4 GiB in float32, and as much again for
their gradient. Here a slice of ``SLICE_TOKENS`` exists at a time and is computed again in the backward
pass, for one more matrix product of the output layer. Places that are not trained get no logits.
Evaluation takes the same path.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

SLICE_TOKENS = 1024
IGNORED = -100
"""Target of a place that is not trained."""


@dataclass
class TokenLosses(ModelOutput):
    """Sums over all trained places of a batch."""

    loss_sum: torch.Tensor | None = None
    """Cross-entropy in nats, float32: ()."""
    correct: torch.Tensor | None = None
    """Places whose most likely token is the target: (); only where no gradient is asked for."""
    losses: torch.Tensor | None = None
    """Of each place, like the targets, 0 where it is not trained; only on request."""
    hits: torch.Tensor | None = None
    """Whether the most likely token of each place is its target, like ``losses``."""


class Packed:
    """What a causal language model of transformers gains: it never makes a cache, and it knows targets.

    A cache hides the restarts of ``position_ids``, and documents of a row would see each other.
    """

    def forward(
        self: Any,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        targets: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """``TokenLosses`` where ``targets`` are given, else the logits in the usual output.

        ``targets``: (batch, tokens), the token to predict at each place, ``IGNORED`` where none is.
        ``each=True`` gives what every place adds, without gradients, instead of the sums.
        """
        each = kwargs.pop("each", False)
        given = {name: value for name, value in kwargs.items() if value is not None} | {"use_cache": False}
        if targets is None:
            return super().forward(input_ids=input_ids, position_ids=position_ids, **given)  # type: ignore[misc]
        hidden = self.base_model(input_ids=input_ids, position_ids=position_ids, **given).last_hidden_state
        if each:
            return self._loss_of_each(hidden.flatten(0, 1), targets)
        return self._token_losses(hidden.flatten(0, 1), targets.flatten())

    def _token_losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> TokenLosses:
        slices = _slices(hidden, targets)
        if torch.is_grad_enabled():
            sums = [checkpoint(self._loss_of_slice, h, t, use_reentrant=False) for h, t in slices]
            return TokenLosses(loss_sum=torch.stack(sums).sum())
        losses, correct = zip(*(self._measure_slice(h, t) for h, t in slices), strict=True)
        return TokenLosses(loss_sum=torch.stack(losses).sum(), correct=torch.stack(correct).sum())

    @torch.no_grad()
    def _loss_of_each(self, hidden: torch.Tensor, targets: torch.Tensor) -> TokenLosses:
        trained = targets != IGNORED
        losses = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
        hits = torch.zeros(targets.shape, dtype=torch.bool, device=targets.device)
        parts = [self._each_of_slice(h, t) for h, t in _slices(hidden, targets.flatten())]
        losses[trained], hits[trained] = (torch.cat(part) for part in zip(*parts, strict=True))
        return TokenLosses(losses=losses, hits=hits)

    def _each_of_slice(
        self, hidden: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._logits(hidden)
        return _cross_entropy(logits, targets, "none"), logits.argmax(-1) == targets

    def _measure_slice(
        self, hidden: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._logits(hidden)
        return _cross_entropy(logits, targets), (logits.argmax(-1) == targets).sum()

    def _loss_of_slice(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _cross_entropy(self._logits(hidden), targets)

    def _logits(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Of these places, in float32. The self-test compares them with the model's own."""
        logits: torch.Tensor = self.lm_head(hidden)
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap  # in the type in which the model's own class caps them
        return logits.float()


@functools.cache
def packed(model_class: type) -> Any:
    """``model_class``, a ``...ForCausalLM`` of transformers, as a subclass that is also ``Packed``."""
    return type(f"Packed{model_class.__name__}", (Packed, model_class), {"__module__": __name__})


def unpacked(model: Any) -> Any:
    """The same ``Packed`` model, from now on of transformers' own class, for generating with a cache.

    The subclass holds no state of its own, so the object itself changes class and no weight is copied.
    """
    own = next(cls for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    # FSDP2 mixes a class of its own into that of a model, and goes on with its hooks.
    sharded = isinstance(model, FSDPModule)
    model.__class__ = type(f"FSDP{own.__name__}", (FSDPModule, own), {}) if sharded else own
    return model


def _slices(hidden: torch.Tensor, targets: torch.Tensor) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """The trained places, cut into as many slices as there are places for, trained or not.

    Under ZeRO-3 each slice gathers the output layer, so all ranks have to make the same number.
    """
    count, trained = -(-len(targets) // SLICE_TOKENS), targets != IGNORED
    parts = (tensor[trained].tensor_split(count) for tensor in (hidden, targets))
    return zip(*parts, strict=True)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
    # Autocast would be free to choose another type; the sum over a vocabulary needs float32.
    with torch.autocast(logits.device.type, enabled=False):
        return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction=reduction)
