"""4-bit weights: the same bits on CPU and GPU, correct kernels, a short QLoRA run, and its export."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import Scale, gemfit, keep, losses, make_run, selftest, train

STEPS = 8
QLORA = {"model__lora__rank": 8, "model__lora__alpha": 16, "model__quantization": "nf4"}
DIFFERING = 1e-3
"""Largest share of bytes that differ between devices: a value between two levels may go to either."""
LOGITS = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of a logit, as a share of the largest."""


def measure(scale: Scale) -> dict[str, Any]:
    """Bits by device, self-test and losses of a QLoRA run, logits of the exported model."""
    if find_spec("bitsandbytes") is None:
        raise RuntimeError(
            "bitsandbytes is not installed: pack it (pack_wheels.py), or install gemfit[qlora]"
        )
    run = make_run(
        scale,
        "qlora",
        length__max_steps=STEPS,
        batch__global_batch_size=8,
        optim__learning_rate=1e-3,
        **QLORA,
    )
    train(scale, run)  # first: the dry run forks ranks, and nothing may have started threads
    facts = selftest(run)
    found = {"losses": losses(run), "layers_in_4_bits": facts.get("layers_in_4_bits")}
    keep(scale, "four_bits", found)
    found |= _bits(scale) | {"product_error": _product_error(scale)}
    keep(scale, "four_bits", found)
    exported = scale.work / "qlora-export"
    gemfit("export", str(run.root), "--out", str(exported))
    found["exported_finite"] = _exported_is_finite(exported)
    differing = found["differing_bytes"]
    faults = [f"CPU and GPU quantize {differing:.1%} differently"] if differing > DIFFERING else []
    if found["product_error"] > LOGITS[scale.dtype]:
        faults.append(f"a 4-bit product is {found['product_error']:.1e} off its float32 value")
    if not found["exported_finite"]:
        faults.append("the exported model gives values that are not finite")
    return found | {"faults": faults}


def _bits(scale: Scale) -> dict[str, Any]:
    """Whether both devices quantize a weight to the same bits, and the share that differs."""
    from bitsandbytes.functional import quantize_4bit  # noqa: PLC0415

    weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    bits = [quantize_4bit(weight.to(device), quant_type="nf4")[0].cpu() for device in ("cpu", scale.device)]
    differing = float((bits[0] != bits[1]).float().mean())
    said = {"dry": "both times on the CPU"} if scale.dry else {}
    return {"bits_equal": differing == 0, "differing_bytes": differing, **said}


def _product_error(scale: Scale) -> float:
    """Error of a 4-bit layer on the device against its dequantized weight in float32 on the CPU."""
    from gemfit.schemas.recipe_model import Quantization  # noqa: PLC0415
    from gemfit.train.model.qlora import QuantizedLinear, check_kernels  # noqa: PLC0415

    torch.manual_seed(0)
    device, dtype = torch.device(scale.device), getattr(torch, scale.dtype)
    layer = QuantizedLinear(torch.nn.Linear(1024, 256, bias=False).to(device), Quantization(), dtype)
    check_kernels(layer, device)
    x = torch.randn(16, 1024).to(dtype)
    with torch.no_grad():
        product = layer(x.to(device)).float().cpu()
        expected = x.float() @ layer.dequantized().float().cpu().T
    return float((product - expected).abs().max() / expected.abs().max())


def _exported_is_finite(folder: Path) -> bool:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return bool(model(torch.arange(3, 40)[None]).logits.isfinite().all())
