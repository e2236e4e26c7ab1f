"""Attention functions that gemfit registers with transformers, in place of its own or in addition."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, masking_utils
from transformers.integrations.flex_attention import flex_attention_forward


def register_attention() -> None:
    """Register them for every model of this process; calling it again changes nothing."""
    AttentionInterface.register("flex_attention", flex_attention_of_one_dtype)
    masking_utils.find_packed_sequence_indices = packed_sequence_indices


def packed_sequence_indices(position_ids: torch.Tensor) -> torch.Tensor:
    """The number of each token's document in its row, from restarting positions: (rows, tokens).

    transformers' own function asks whether there is more than one document, twice in each forward pass, and
    waits for the GPU to answer. Packed rows have several.
    """
    starts = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1) != 1
    return starts.cumsum(-1)


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
