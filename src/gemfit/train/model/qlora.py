"""QLoRA: 4-bit frozen linear layers (bitsandbytes) that every engine can shard.

A quantized weight is an ordinary frozen parameter of the compute dtype: engines move, shard and gather its
bits and never interpret them. The scales (the largest value of each block) are held by the layer, whole on
every rank: 0.127 bits per weight with double quantization, else 0.5. A weight is quantized as it is read,
one at a time, so the model is never in memory in more than 4 bits. Embeddings, output layer and norms are
not quantized; they have the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit

from gemfit.errors import UserError
from gemfit.schemas.recipe_model import Quantization
from gemfit.train.distributed.meta_init import cast_frozen
from gemfit.train.trainer_view import SelfTestError

BLOCK = 64
"""Weights that share a scale; bitsandbytes' default, and the only block size used here."""
ROUNDING = {"nf4": 0.10, "fp4": 0.14}
"""Largest relative error (norm) for normally distributed weights; correct kernels give 0.092 and 0.122."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference of a product, as a share of its largest value."""


class QuantizedLinear(Linear4bit):
    """bitsandbytes' linear layer over a plain parameter of bits, which may be on the meta device."""

    quant_state: QuantState | None

    def __init__(self, plain: torch.nn.Linear, settings: Quantization, dtype: torch.dtype) -> None:
        """Replaces ``plain``; quantizes its weight unless that is on the meta device."""
        super().__init__(
            plain.in_features,
            plain.out_features,
            bias=False,
            compute_dtype=dtype,
            compress_statistics=settings.double,
            quant_type=settings.type,
            quant_storage=dtype,
            device="meta",
        )
        self.settings, self.bias = settings, plain.bias
        if plain.weight.is_meta:
            bits = torch.empty(packed_shape(plain.weight, dtype), dtype=dtype, device="meta")
        else:
            bits = self.quantize(plain.weight.detach())
        self.weight = torch.nn.Parameter(bits, requires_grad=False)
        self.train(plain.training)

    def quantize(self, weight: torch.Tensor) -> torch.Tensor:
        """The bits of a whole ``weight`` (outputs, inputs); its scales are stored in this layer."""
        bits, self.quant_state = self._quantized(weight)
        return bits

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """The values of a whole ``weight`` (outputs, inputs) in 4 bits; this layer is left as it is."""
        return dequantize_4bit(*self._quantized(weight))

    def _quantized(self, weight: torch.Tensor) -> tuple[torch.Tensor, QuantState]:
        bits, state = quantize_4bit(
            weight.to(self.compute_dtype),
            compress_statistics=self.settings.double,
            quant_type=self.settings.type,
            quant_storage=self.compute_dtype,
        )
        return bits, state

    def dequantized(self) -> torch.Tensor:
        """The weight that this layer computes with: (outputs, inputs), in the compute dtype."""
        return dequantize_4bit(self.weight, self._state_on(self.weight.device))

    @property
    def W_q(self) -> torch.Tensor:
        """The bits."""
        return self.weight

    def dequantize(self) -> torch.Tensor:
        """``dequantized``, under the name by which peft asks for it."""
        return self.dequantized()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, inputs) to (…, outputs), in the compute dtype, as a plain layer under autocast."""
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        state = self._state_on(x.device)
        return bitsandbytes.matmul_4bit(x.to(self.compute_dtype), self.weight, quant_state=state, bias=bias)

    def _state_on(self, device: torch.device) -> QuantState:
        if self.quant_state is None:
            raise RuntimeError("a 4-bit layer is used before its weight was read")
        self.quant_state.to(device)  # no copy after the first call
        return self.quant_state


def packed_shape(weight: torch.Tensor, dtype: torch.dtype) -> tuple[int, int]:
    """Shape of the 4-bit ``weight`` stored in elements of ``dtype``."""
    return -(-weight.numel() // (2 * dtype.itemsize)), 1


def quantize(model: Any, settings: Quantization, dtype: torch.dtype) -> None:
    """Quantize all linear layers with frozen weights to 4 bits; other frozen parameters become ``dtype``.

    ``model`` has its adapters. Call it once, before any engine has seen the model.
    """
    for parent, name, plain in _frozen_linears(model):
        if plain.in_features % BLOCK:
            # bitsandbytes 0.50 on CPUs dequantizes such weights wrongly.
            raise UserError(
                f"model.quantization: {name} has {plain.in_features} inputs, not a multiple of {BLOCK}: "
                "the blocks that share a scale would cross its rows; set model.quantization to null"
            )
        setattr(parent, name, QuantizedLinear(plain, settings, dtype))
    cast_frozen(model, dtype)


def dequantize(model: Any) -> None:
    """Replace 4-bit layers by plain float32 layers of the same values: 4 bytes per weight."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, QuantizedLinear):
                setattr(module, name, _plain(layer))
    model.to(torch.float32)


def rounding(
    model: Any, settings: Quantization, dtype: torch.dtype
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What ``quantize`` would leave of each weight of ``model``, which stays as it is and may be on meta.

    The function takes a frozen parameter and its whole values in ``dtype``, and returns those that the model
    would compute with, in float32.
    """
    layers = {
        id(plain.weight): QuantizedLinear(plain, settings, dtype) for _, _, plain in _frozen_linears(model)
    }

    def rounded(parameter: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        layer = layers.get(id(parameter))
        return (weight if layer is None else layer.rounded(weight)).float()

    return rounded


def check_layers(model: torch.nn.Module, device: torch.device) -> int:
    """Number of 4-bit layers, after a check of the kernels for ``device``.

    ``SelfTestError`` where a frozen layer is not in 4 bits, or its values are not restored correctly.
    """
    found = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    left = [name for _, name, _ in _frozen_linears(model)]
    if left or not found:
        raise SelfTestError(f"{len(found)} layers are in 4 bits; these are not: {', '.join(left) or 'none'}")
    for layer in {layer.in_features: layer for layer in found}.values():
        check_kernels(layer, device)
    return len(found)


def check_kernels(like: QuantizedLinear, device: torch.device) -> None:
    """``SelfTestError`` unless a layer as wide as ``like`` dequantizes and multiplies within tolerance."""
    generator, dtype = torch.Generator().manual_seed(0), like.compute_dtype
    plain = torch.nn.Linear(like.in_features, BLOCK, bias=False)
    plain.weight.data.normal_(generator=generator)
    x = torch.randn(3, like.in_features, generator=generator).to(device, dtype)
    layer = QuantizedLinear(plain.to(device), like.settings, dtype)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        restored, product = layer.dequantized(), layer(x)
        rounding = float((restored - plain.weight).norm() / plain.weight.norm())
        expected = torch.nn.functional.linear(x, restored)
        error = float((product - expected).abs().max() / expected.abs().max())
    if not (rounding < ROUNDING[like.settings.type] and error < TOLERANCE[dtype]):
        raise SelfTestError(
            f"bitsandbytes {bitsandbytes.__version__} on {device.type}, {like.in_features} inputs: weights "
            f"come back {rounding:.1%} off, products {error:.1%}; set model.quantization to null"
        )


def _plain(layer: QuantizedLinear) -> torch.nn.Linear:
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = torch.nn.Parameter(layer.dequantized().float(), requires_grad=False)
    plain.bias = layer.bias
    return plain.train(layer.training)


def _frozen_linears(model: Any) -> list[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """(parent, name in it, layer) of frozen linear layers, except the output layer and 4-bit ones."""
    output = set(model.get_output_embeddings().modules())  # with a copy of it that is trained
    return [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, torch.nn.Linear)
        and not isinstance(layer, Linear4bit)
        and layer not in output
        and not layer.weight.requires_grad
    ]
