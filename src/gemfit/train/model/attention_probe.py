"""Probe of an attention kernel on each rank's device, before the model is allocated.

``model.attention: auto`` names a faster attention in the plan. The ranks take it only if its kernel passes on
all of them: at the widths of the model's heads, in its windows, on packed documents. It is compared with
attention in float32, forward and backward, and a changed value must reach exactly the tokens that may see it.
That costs some passes over about a thousand tokens, and a few hundred MB that are free again afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from gemfit.schemas.plan import Plan
from gemfit.train.collective import on_every_rank, rank
from gemfit.train.model.attention_functions import varlen_attention

logger = logging.getLogger(__name__)

LONGEST_WINDOW = 1024
"""A longer window is probed at this length: the reference holds all scores."""
BEYOND_WINDOW = 40
TOLERANCE = 3e-2
"""Largest norm of a difference to float32, as a share of the norm: bfloat16 gives some thousandths."""
LARGE = 1e4
"""Added to a value, it is seen wherever the value has any weight."""


class AttentionCase(NamedTuple):
    """What the kernel is asked for in some of a model's layers."""

    width: int
    groups: int
    """Query heads per key head."""
    window: int | None
    scaling: float


class KernelFault(Exception):
    """What a kernel computes wrongly."""


def take_proven(plan: Plan, model: Any, device: torch.device) -> Plan:
    """``plan`` with the attention that ``model``, not allocated yet, computes with from now on. Collective.

    That is `attention_if_proven` where every rank finds its kernel right, else the attention of ``plan``.
    """
    faster, taken = plan.attention_if_proven, str(plan.recipe.model.attention)
    if faster is None:
        return plan
    faults = on_every_rank(lambda: fault_of_varlen(model, device))
    at_fault = next((number for number, fault in enumerate(faults) if fault is not None), None)
    if at_fault is None:
        taken, because = faster, f"its kernel passed a probe on each of {len(faults)} ranks"
    else:
        because = f"{faster} cannot be used on rank {at_fault}: {faults[at_fault]}"
    if rank() == 0:
        logger.info("attention %s: %s", taken, because)
    model.config._attn_implementation = taken
    recipe = plan.recipe.model_copy(
        update={"model": plan.recipe.model.model_copy(update={"attention": taken})}
    )
    return plan.model_copy(
        update={"recipe": recipe, "attention_because": because, "attention_if_proven": None}
    )


def fault_of_varlen(model: Any, device: torch.device) -> str | None:
    """Why ``model`` cannot compute with ``varlen`` on ``device``; ``None`` if it can."""
    try:
        for case in attention_cases(model):
            check_case(case, device)
    except Exception as error:
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None


def attention_cases(model: torch.nn.Module) -> set[AttentionCase]:
    """The cases of all attention modules of ``model``; ``KernelFault`` for one that varlen does not have."""
    found = set()
    for module in model.modules():
        if not (hasattr(module, "num_key_value_groups") and hasattr(module, "scaling")):
            continue
        layer: Any = module
        if getattr(layer, "attn_logit_softcapping", None) or getattr(layer, "attention_dropout", 0.0):
            raise KernelFault("the model caps its scores or drops some of them, which varlen does not")
        window = getattr(layer, "sliding_window", getattr(layer.config, "sliding_window", None))
        window = None if window is None else min(window, LONGEST_WINDOW)
        found.add(AttentionCase(layer.head_dim, layer.num_key_value_groups, window, layer.scaling))
    if not found:
        raise KernelFault("no attention is found in the model")
    return found


def check_case(case: AttentionCase, device: torch.device) -> None:
    """``KernelFault`` where the kernel differs from attention in float32, or sees what it must not."""
    lengths = (7, (case.window or 100) + BEYOND_WINDOW, 30)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    seen = _visible(ends, case.window).to(device)
    inputs = list(_inputs(case, len(seen), device))
    _check_reach(case, ends, seen, inputs)
    output, gradients = _with_gradients(_kernel(case, ends.to(device), len(seen)), inputs)
    expected = _with_gradients(lambda q, k, v: _reference(q, k, v, seen, case.scaling), inputs)
    for what, found, right in zip(
        ("output", "gradient of queries", "gradient of keys", "gradient of values"),
        (output, *gradients),
        (expected[0], *expected[1]),
        strict=True,
    ):
        apart = float((found.float() - right).norm() / right.norm())
        if not apart <= TOLERANCE:  # also where it is NaN
            raise KernelFault(
                f"the {what} is {apart:.2g} off at {_named(case)}, at most {TOLERANCE} is right"
            )


def _check_reach(
    case: AttentionCase,
    ends: torch.Tensor,
    seen: torch.Tensor,
    inputs: list[torch.Tensor],
) -> None:
    """A changed value changes the output of each token that sees it, and of no other by a single bit."""
    kernel = _kernel(case, ends.to(seen.device), len(seen))
    query, key, value = (tensor.detach() for tensor in inputs)
    before = kernel(query, key, value)
    for token in (0, *(place for end in ends[1:-1].tolist() for place in (end - 1, end, end + 1))):
        changed = value.clone()
        changed[:, :, token] += LARGE
        differs = (kernel(query, key, changed) != before).flatten(2).any(-1)[0]
        if not torch.equal(differs, seen[:, token]):
            wrong = int((differs != seen[:, token]).nonzero()[0])
            sees = "sees" if bool(differs[wrong]) else "does not see"
            raise KernelFault(
                f"token {wrong} {sees} token {token} at {_named(case)}, where documents end at "
                f"{', '.join(map(str, ends[1:].tolist()))}"
            )


def _visible(ends: torch.Tensor, window: int | None) -> torch.Tensor:
    """Whether a token (first dimension) sees another: (tokens, tokens)."""
    tokens = torch.arange(int(ends[-1]))
    document = torch.bucketize(tokens, ends[1:], right=True)
    distance = tokens[:, None] - tokens[None]
    return (document[:, None] == document[None]) & (distance >= 0) & (distance < (window or len(tokens)))


def _inputs(case: AttentionCase, tokens: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Queries, keys and values: (1, heads, tokens, width), bfloat16; scores have a deviation of 1."""
    generator = torch.Generator().manual_seed(0)
    key_heads = 2
    size = (case.scaling * case.width**0.5) ** -0.5
    for heads, factor in ((key_heads * case.groups, size), (key_heads, size), (key_heads, 1.0)):
        values = torch.randn(1, heads, tokens, case.width, generator=generator) * factor
        yield values.to(device, torch.bfloat16).requires_grad_()


def _kernel(case: AttentionCase, ends: torch.Tensor, tokens: int) -> Any:
    # As compiled layers give them: an upper bound of the lengths, and empty documents at the end.
    boundaries = torch.cat([ends, ends[-1:].expand(3)]).int()

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output, _ = varlen_attention(
            torch.nn.Module(),
            query,
            key,
            value,
            None,
            cu_seq_lens_q=boundaries,
            max_length_q=tokens,
            scaling=case.scaling,
            sliding_window=case.window,
        )
        return output

    return kernel


def _reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention in float32: (1, tokens, heads, width)."""
    groups = query.shape[1] // key.shape[1]
    q, k, v = query.float(), *(tensor.float().repeat_interleave(groups, 1) for tensor in (key, value))
    scores = (q @ k.mT * scaling).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def _with_gradients(
    attention: Any, inputs: list[torch.Tensor]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The output, and the gradients of a sum of it with random weights."""
    output = attention(*inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.device)
    return output.detach(), torch.autograd.grad((output.float() * weights).sum(), inputs)


def _named(case: AttentionCase) -> str:
    window = "" if case.window is None else f" in windows of {case.window}"
    return f"heads of {case.width} numbers{window}"
