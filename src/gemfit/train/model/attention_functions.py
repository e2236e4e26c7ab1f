"""Attention functions that gemfit registers with transformers, in place of its own or in addition."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import varlen
from transformers import AttentionInterface, masking_utils
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gemfit.errors import UserError


def register_attention() -> None:
    """Register them for every model of this process; calling it again changes nothing."""
    AttentionInterface.register("flex_attention", flex_attention_of_one_dtype)
    if "varlen" not in ALL_ATTENTION_FUNCTIONS:  # sequence parallelism wraps it in its place
        AttentionInterface.register("varlen", varlen_attention)
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


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """``torch.nn.attention.varlen``: FlashAttention over packed documents, which torch brings along.

    ``query``: (1, heads, tokens, width), ``key`` and ``value`` with their own number of heads, all rows
    flattened; ``cu_seq_lens_q``: (documents + 1,), int32. Returns (1, tokens, heads, width). It takes
    bfloat16 on GPUs of compute capability 8.0 and newer, and has no mask and no KV cache. ``UserError`` for a
    model that caps its scores.
    """
    if softcap is not None:
        raise UserError(
            f"model.attention varlen does not cap attention scores, and this model caps them at {softcap:g}; "
            "set it to flex_attention or eager"
        )
    # As FlashAttention, it takes one dtype: under autocast rotary positions make queries and keys float32.
    q, k, v = (tensor.to(value.dtype)[0].transpose(0, 1) for tensor in (query, key, value))
    # A token and the `sliding_window - 1` before it; to the right nothing.
    left = -1 if sliding_window is None else sliding_window - 1
    output: Any = varlen.varlen_attn(  # a tensor, where nothing else is asked for
        q,
        k,
        v,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(left, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[None], None
