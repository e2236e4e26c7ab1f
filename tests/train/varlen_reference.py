"""Stand-ins for ``torch.nn.attention.varlen.varlen_attn`` on CPUs."""

from __future__ import annotations

from typing import Any

import torch


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What ``varlen_attn`` documents, with a dense mask: (tokens, heads, width)."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert cu_seq_q.dtype == torch.int32
    assert int(cu_seq_q.diff().max()) <= max_q == max_k
    assert enable_gqa == (query.shape[1] != key.shape[1])
    (left, right), tokens = window_size, torch.arange(len(query))
    document = torch.bucketize(tokens, cu_seq_q[1:], right=True)
    distance = tokens[:, None] - tokens[None]  # of a query to a key before it
    seen = (document[:, None] == document[None]) & (distance >= -right)
    seen &= (distance <= left) | (left < 0)
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    scores = torch.einsum("qhw,khw->hqk", query, key) * scale
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khw->qhw", weights, value)


def in_float32(query: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
    """The reference as a kernel computes it: sums in float32, the output in the dtype of the queries."""
    key, value, *rest = others
    output = reference(query.float(), key.float(), value.float(), *rest, **options)
    return output.to(query.dtype)
