"""Attention functions that gemfit registers with transformers, in place of its own or in addition."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward


def register_attention() -> None:
    """Register them for every model of this process; calling it again changes nothing."""
    AttentionInterface.register("flex_attention", flex_attention_of_one_dtype)


def flex_attention_of_one_dtype(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> Any:
    """``flex_attention`` with queries and keys in the dtype of the values.

    Under autocast rotary positions make queries and keys float32. SDPA and FlashAttention cast them back;
    FlexAttention would compile its kernel for float32, too large for wide heads.
    """
    query, key = (tensor.to(value.dtype) for tensor in (query, key))
    return flex_attention_forward(module, query, key, value, attention_mask, **options)
