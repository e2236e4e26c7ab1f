"""Sequence parallelism by all-to-all over heads (DeepSpeed-Ulysses, arXiv:2309.14509), exact for packed rows.

Each rank holds a slice of every row. Before attention the ranks of a group exchange queries, keys and
values, so that each sees whole rows for its share of the heads; after it they exchange the results back. Any
attention function of transformers runs in between, with the sliding window and the document borders of whole
rows. Every other module works on single tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from transformers import AttentionInterface
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gemfit.errors import UserError
from gemfit.schemas.head_division import heads_problem, key_value_repeats

EXCHANGES = "exchanges_heads"
"""Attribute of an attention function that is wrapped already; others may have been decorated."""


def use_sequence_parallel(model: Any, degree: int) -> None:
    """Let the attention of ``model`` exchange heads over the group in a batch, if it has one.

    Raises ``UserError`` for heads that do not divide by ``degree``, and for dropout in the attention. Calling
    it again changes nothing.
    """
    config = model.config
    if (problem := heads_problem(degree, config.num_attention_heads)) is not None:
        raise UserError(problem)
    if getattr(config, "attention_dropout", 0.0):
        raise UserError(
            "strategy.sequence_parallel: the model has dropout in its attention, which every degree would "
            "draw otherwise; set attention_dropout to 0 in its config.json, or use 1"
        )
    name = config._attn_implementation
    base = ALL_ATTENTION_FUNCTIONS.get(name, _eager)
    if not hasattr(base, EXCHANGES):
        AttentionInterface.register(name, over_heads(base))


def over_heads(attention: Callable[..., Any]) -> Callable[..., Any]:
    """``attention`` over whole rows and some of the heads, for slices of rows and all heads.

    Without ``sequence_group`` it is ``attention`` itself.
    """

    @wraps(attention)
    def exchanged(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        *,
        sequence_group: Any = None,
        **options: Any,
    ) -> Any:
        if sequence_group is None:
            return attention(module, query, key, value, attention_mask, **options)
        repeats = key_value_repeats(key.shape[1], dist.get_world_size(sequence_group))
        if repeats > 1:
            key, value = (tensor.repeat_interleave(repeats, 1) for tensor in (key, value))
        # Under autocast rotary positions are in float32; every attention casts them back.
        sent = (query.to(value.dtype), key.to(value.dtype), value)
        local = _LocalHeads(module, module.num_key_value_groups // repeats)
        output, _ = attention(local, *rows_of_some_heads(sent, sequence_group), attention_mask, **options)
        return slices_of_all_heads(output, sequence_group), None

    setattr(exchanged, EXCHANGES, True)
    return exchanged


def row_masks(model: Any, positions: torch.Tensor) -> Any:
    """The attention masks of whole rows with these ``positions`` (rows, tokens), by kind of layer.

    As the model makes them itself without sequence parallelism; ``None`` for FlashAttention, which takes the
    boundaries of documents.
    """
    dtype = model.get_input_embeddings().weight.dtype
    shape_and_type = torch.empty((), dtype=dtype, device=positions.device).expand(*positions.shape, 1)
    return create_masks_for_generate(
        config=model.config,
        inputs_embeds=shape_and_type,
        attention_mask=None,
        past_key_values=None,
        position_ids=positions,
    )


def rows_of_some_heads(slices: tuple[torch.Tensor, ...], group: Any) -> tuple[torch.Tensor, ...]:
    """Whole rows of this rank's share of the heads: (rows, heads / degree, tokens * degree, width) each.

    ``slices``: all heads of this rank's tokens, (rows, heads, tokens, width) each. One exchange for all.
    """
    degree = dist.get_world_size(group)
    # (degree, rows, heads / degree, tokens, width): the i-th share of the heads goes to rank i.
    shares = [_parts(tensor, degree) for tensor in slices]
    received = _exchange(group, torch.cat(shares, 2))
    # The first dimension is now the rank whose tokens these are.
    rows = received.movedim(0, 2).flatten(2, 3)
    return rows.split([share.shape[2] for share in shares], 1)  # type: ignore[no-untyped-call]


def slices_of_all_heads(rows: torch.Tensor, group: Any) -> torch.Tensor:
    """All heads of this rank's tokens: (rows, tokens, heads, width).

    ``rows``: (rows, tokens * degree, heads / degree, width), as attention functions return them.
    """
    received = _exchange(group, _parts(rows, dist.get_world_size(group)).contiguous())
    # The first dimension is now the rank whose heads these are.
    return received.movedim(0, 2).flatten(2, 3)


def _parts(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Dimension 1 in ``count`` parts, which become the first dimension."""
    return tensor.reshape(tensor.shape[0], count, -1, *tensor.shape[2:]).transpose(0, 1)


def _exchange(group: Any, tensor: torch.Tensor) -> torch.Tensor:
    received: torch.Tensor = _AllToAll.apply(group, tensor)  # type: ignore[no-untyped-call]
    return received


class _AllToAll(torch.autograd.Function):
    """Part i of the first dimension goes to rank i of the group, and so do gradients on their way back."""

    @staticmethod
    def forward(ctx: Any, group: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.group = group
        received = torch.empty_like(tensor)
        dist.all_to_all_single(received, tensor, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return None, _exchange(ctx.group, gradient.contiguous())


class _LocalHeads:
    """An attention module with the key/value groups that one rank has."""

    def __init__(self, module: torch.nn.Module, groups: int) -> None:
        self._module, self.num_key_value_groups = module, groups

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _eager(module: Any, *arguments: Any, **options: Any) -> Any:
    """The eager attention of the file that ``module``'s class is in; transformers registers none."""
    owner = type(getattr(module, "_module", module))
    return sys.modules[owner.__module__].eager_attention_forward(module, *arguments, **options)
