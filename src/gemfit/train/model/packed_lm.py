"""PackedCausalLM: a causal language model for packed rows with cross-entropy in slices.

The logits of 4 rows of 1,024 tokens over 262,144 entries are 4 GiB in float32, and as much again for their
gradient. Here the logits of ``LOSS_SLICE_TOKENS`` tokens exist at a time, and all but the last are
recomputed in the backward pass, for one more matrix product of the output layer. Tokens without a label get
no logits, except for a few that round the size of a slice. Evaluation takes the same path. Nothing here
waits for the GPU.
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

from gemfit.data.document import IGNORED
from gemfit.train.data.collate import loss_slices
from gemfit.train.model.ulysses import row_masks


@dataclass
class TokenLosses(ModelOutput):
    """Losses of the labelled tokens of a batch."""

    loss_sum: torch.Tensor | None = None
    """Sum of the cross-entropy in nats, float32: ()."""
    correct: torch.Tensor | None = None
    """Number of tokens whose argmax is the target: (); only without gradients."""
    losses: torch.Tensor | None = None
    """Per token, shaped like the targets, 0 without a label; only with ``per_token``."""
    hits: torch.Tensor | None = None
    """Whether the argmax is the target, per token; only with ``per_token``."""


class PackedCausalLM:
    """Mixin for a ``...ForCausalLM`` of transformers: cross-entropy in slices, never a KV cache.

    A cache hides the restarts of ``position_ids``, and documents of a row would attend to each other.
    """

    def forward(
        self: Any,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        targets: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """``TokenLosses`` where ``targets`` are given, else the logits in the usual output.

        ``targets``: (batch, tokens), the token to predict at each position, ``IGNORED`` where there is none.
        ``places``: the flat places to take logits of, at least all that have a target; every one by default.
        ``per_token=True`` gives losses per token, without gradients, instead of sums.
        ``row_position_ids``, ``sequence_group``: of a batch of slices of rows; see ``slice_rows``.
        """
        per_token = kwargs.pop("per_token", False)
        if (row_positions := kwargs.pop("row_position_ids", None)) is not None:
            kwargs["attention_mask"] = row_masks(self, row_positions)
        given = {name: value for name, value in kwargs.items() if value is not None} | {"use_cache": False}
        if targets is None:
            return super().forward(input_ids=input_ids, position_ids=position_ids, **given)  # type: ignore[misc]
        hidden = self.base_model(input_ids=input_ids, position_ids=position_ids, **given).last_hidden_state
        if places is None:
            places = torch.arange(targets.numel(), device=targets.device)
        if per_token:
            return self._per_token_losses(hidden.flatten(0, 1), targets, places)
        return self._summed_losses(hidden.flatten(0, 1), targets.flatten(), places)

    def _summed_losses(
        self, hidden: torch.Tensor, targets: torch.Tensor, places: torch.Tensor
    ) -> TokenLosses:
        slices = _loss_slices(hidden, targets, places)
        if torch.is_grad_enabled():
            *earlier, last = slices
            sums = [checkpoint(self._slice_loss, h, t, use_reentrant=False) for h, t in earlier]
            sums.append(self._slice_loss(*last))  # the backward pass begins with it, and takes its logits
            return TokenLosses(loss_sum=torch.stack(sums).sum())
        losses, correct = zip(*(self._slice_sums(h, t) for h, t in slices), strict=True)
        return TokenLosses(loss_sum=torch.stack(losses).sum(), correct=torch.stack(correct).sum())

    @torch.no_grad()
    def _per_token_losses(
        self, hidden: torch.Tensor, targets: torch.Tensor, places: torch.Tensor
    ) -> TokenLosses:
        losses = torch.zeros(targets.numel(), dtype=torch.float32, device=targets.device)
        hits = torch.zeros(targets.numel(), dtype=torch.bool, device=targets.device)
        found = [self._slice_per_token(h, t) for h, t in _loss_slices(hidden, targets.flatten(), places)]
        losses[places], hits[places] = (torch.cat(values) for values in zip(*found, strict=True))
        return TokenLosses(losses=losses.view(targets.shape), hits=hits.view(targets.shape))

    def _slice_per_token(
        self, hidden: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._logits(hidden)
        return _cross_entropy(logits, targets, "none"), logits.argmax(-1) == targets

    def _slice_sums(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._logits(hidden)
        return _cross_entropy(logits, targets), (logits.argmax(-1) == targets).sum()

    def _slice_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _cross_entropy(self._logits(hidden), targets)

    def _logits(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of these hidden states, in float32. The self-test compares the loss with the model's own."""
        logits: torch.Tensor = self.lm_head(hidden)
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap  # in the dtype in which the model's own class caps them
        return logits.float()


@functools.cache
def packed_class(model_class: type) -> Any:
    """``model_class``, a ``...ForCausalLM`` of transformers, with ``PackedCausalLM`` mixed in."""
    bases = (PackedCausalLM, model_class)
    return type(f"Packed{model_class.__name__}", bases, {"__module__": __name__})


def unpacked_model(model: Any) -> Any:
    """The same model object with transformers' own class again, to generate with a KV cache.

    The subclass holds no state of its own, so the object changes its class and no weight is copied.
    """
    own = next(cls for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    # FSDP2 has mixed a class of its own into the model's class, and its hooks need it.
    sharded = isinstance(model, FSDPModule)
    model.__class__ = type(f"FSDP{own.__name__}", (FSDPModule, own), {}) if sharded else own
    return model


def _loss_slices(
    hidden: torch.Tensor, targets: torch.Tensor, places: torch.Tensor
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """The tokens at ``places``, in as many loss slices as all tokens would fill."""
    count = loss_slices(len(targets))
    return zip(
        *(tensor.index_select(0, places).tensor_split(count) for tensor in (hidden, targets)), strict=True
    )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
    # Autocast could choose another dtype; the sum over a vocabulary needs float32.
    with torch.autocast(logits.device.type, enabled=False):
        return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction=reduction)
