"""Liger kernels: fused modules replace those of a Gemma 3 after a comparison with the plain ones.

Norms, GeGLU and rotary positions are replaced on the instance: transformers' classes, parameters and
their names are unchanged. Liger's loss is not used, because the training's own, in slices, does
not hold the logits of a whole batch either, in evaluation too. A comparison costs one small forward and
backward pass for each kind of module.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3Attention,
    Gemma3MLP,
    Gemma3RMSNorm,
    apply_rotary_pos_emb,
)

from gemfit.errors import UserError

logger = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""Largest difference to the plain module, as a share of its largest value, forward and backward."""
ROTARY = "apply_rotary_pos_emb"
ROWS, POSITIONS, NARROW = 2, 48, 64
"""Shape of the test inputs; a GeGLU is compared with ``NARROW`` inputs, at its full inner width."""


@dataclass(frozen=True, slots=True)
class Liger:
    """The functions used of the package."""

    norm: Callable[..., torch.Tensor]
    geglu: Callable[..., torch.Tensor]
    rotate: Callable[..., Tensors]


def use_liger(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Let ``model`` compute with Liger's modules, in ``dtype`` on ``device``.

    Raises ``UserError`` where the package is missing, the model is not a Gemma 3, or a module does not give
    the plain one's outputs and gradients.
    """
    liger = load_liger()
    replaced = list(_replaceable(model))
    if not replaced:
        raise UserError(
            f"model.kernels: liger is supported for Gemma 3 only, and this is {type(model).__name__}; "
            "set model.kernels to none"
        )
    differences = dict(compare(replaced, liger, device, dtype))
    for module in replaced:
        module.forward = MethodType(_forward_of(module, liger), module)
    logger.info(
        "kernels: liger in %d modules, largest difference %.2g", len(replaced), max(differences.values())
    )


def load_liger() -> Liger:
    """The package's functions; ``UserError`` where it is not installed."""
    try:
        # Importing it needs triton, which only GPUs have.
        from liger_kernel.ops import LigerGELUMulFunction, LigerRMSNormFunction  # noqa: PLC0415
        from liger_kernel.transformers.rope import liger_rotary_pos_emb  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"model.kernels: liger cannot be imported ({error}); pip install liger-kernel, or set none"
        ) from None
    return Liger(LigerRMSNormFunction.apply, LigerGELUMulFunction.apply, liger_rotary_pos_emb)


def compare(
    modules: list[Any], liger: Liger, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, float]]:
    """Name and largest difference of each kind of module; ``UserError`` where it is too large."""
    kinds = {_kind(module): module for module in modules}
    for name, module in kinds.items():
        plain, fused, inputs = _pair(module, liger, device, dtype)
        difference = _difference(plain, fused, inputs)
        if not difference <= TOLERANCE[dtype]:  # also where it is NaN
            raise UserError(
                f"model.kernels: liger's {name} differs from the plain one by {difference:.2g} of the "
                f"largest value, at most {TOLERANCE[dtype]:.2g} is expected; set model.kernels to none"
            )
        yield name, difference


def _replaceable(model: torch.nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(module, Gemma3MLP) and module.config.hidden_activation != "gelu_pytorch_tanh":
            raise UserError(
                f"model.kernels: liger computes GeGLU with gelu_pytorch_tanh, and this model has "
                f"{module.config.hidden_activation}; set model.kernels to none"
            )
        if isinstance(module, Gemma3RMSNorm | Gemma3MLP | Gemma3Attention):
            yield module


def _kind(module: Any) -> str:
    """Modules of one kind differ in their weights only."""
    match module:
        case Gemma3RMSNorm():
            return f"norm of width {module.weight.numel()}"
        case Gemma3MLP():
            return f"GeGLU of width {module.intermediate_size}"
    return f"rotary positions of width {module.head_dim}"


def _forward_of(module: Any, liger: Liger) -> Callable[..., Any]:
    """The new ``forward`` of ``module``, as a function of the module and its arguments."""

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return liger.norm(x, self.weight, self.eps, 1.0, "gemma", False, None)

    def geglu(self: Any, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.down_proj(liger.geglu(self.gate_proj(x), self.up_proj(x)))
        return product

    match module:
        case Gemma3RMSNorm():
            return norm
        case Gemma3MLP():
            return geglu
    return _with_global(type(module).forward, ROTARY, liger.rotate)


def _with_global(function: Any, name: str, other: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of ``function`` in which the global ``name`` is ``other``; its module is unchanged."""
    if name not in function.__code__.co_names:
        raise RuntimeError(f"{function.__qualname__} does not call {name} in this version of transformers")
    changed = FunctionType(
        function.__code__,
        function.__globals__ | {name: other},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    changed.__kwdefaults__ = function.__kwdefaults__
    return changed


def _pair(
    module: Any, liger: Liger, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[..., Any], Callable[..., Any], Tensors]:
    """The plain function, the fused one, and tensors to compare them on, weights included."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    if isinstance(module, Gemma3Attention):
        config, size = module.config, module.head_dim
        heads = (config.num_attention_heads, config.num_key_value_heads)
        angles = torch.rand(ROWS, POSITIONS, size // 2, generator=generator) * torch.pi
        both = torch.cat([angles, angles], -1).to(device, dtype)
        turns = {"cos": both.cos(), "sin": both.sin()}
        inputs = tuple(random(ROWS, count, POSITIONS, size) for count in heads)
        return partial(apply_rotary_pos_emb, **turns), partial(_rotate_copies, liger, **turns), inputs
    fresh = _fresh(module).to(device, dtype)
    width = fresh.hidden_size if isinstance(fresh, Gemma3MLP) else fresh.weight.numel()
    for parameter in fresh.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    fused = partial(_forward_of(fresh, liger), fresh)
    return fresh, fused, (random(ROWS, POSITIONS, width), *fresh.parameters())


def _rotate_copies(liger: Liger, q: torch.Tensor, k: torch.Tensor, **turns: torch.Tensor) -> Tensors:
    # The kernel works in place: in the model its inputs are not used again.
    return liger.rotate(q.clone(), k.clone(), **turns)


def _fresh(module: Any) -> Any:
    """A new module of the same kind, no larger than the comparison needs."""
    if isinstance(module, Gemma3RMSNorm):
        return Gemma3RMSNorm(module.weight.numel(), module.eps)
    config = copy.copy(module.config)
    config.hidden_size = min(NARROW, config.hidden_size)
    return Gemma3MLP(config)


def _difference(plain: Callable[..., Any], fused: Callable[..., Any], tensors: Tensors) -> float:
    """The largest difference of outputs and gradients, as a share of the largest plain value."""
    first, *_ = tensors
    arguments = tensors if first.dim() == 4 else (first,)  # of a module, the others are its weights
    pairs = zip(_passes(plain, arguments, tensors), _passes(fused, arguments, tensors), strict=True)
    found = [(one - other).abs().max() / one.abs().max() for one, other in pairs]
    return float(torch.stack(found).max())  # NaN where one of them is NaN


def _passes(function: Callable[..., Any], arguments: Tensors, tensors: Tensors) -> Iterator[torch.Tensor]:
    """Outputs and then gradients of all ``tensors``, in float32."""
    made = function(*arguments)
    outputs = made if isinstance(made, tuple) else (made,)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(out.shape, generator=generator).to(out.device, out.dtype) for out in outputs]
    yield from (output.detach().float().clone() for output in outputs)
    yield from (gradient.float() for gradient in torch.autograd.grad(outputs, tensors, upstream))
