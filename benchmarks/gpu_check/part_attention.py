"""Attentions by kernel: gradients against eager in float32, and time, for packed rows."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from common import Scale, keep
from models import attention_names, median_seconds, random_batch, random_model, random_rows

from gemfit.train.model.attention_checks import prepare_attention

LAYERS = ["sliding_attention", "full_attention"]
LIMIT = {"autocast": 3e-2, "bfloat16": 6e-2, "float32": 1e-4}
"""Largest relative error (norm) of all gradients of the layers; eager itself has some 1e-2 in bfloat16."""
KERNEL_WORDS = ("attn", "attention", "flash", "fmha", "flex", "cutlass", "triton")
KERNELS = 3


def measure(scale: Scale) -> dict[str, Any]:
    """Error, kernels and milliseconds of each attention, with float32 and bfloat16 parameters."""
    prepare_attention(scale.device)
    names, absent = attention_names(scale)
    expected = _gradients(scale, "eager", "float32")
    modes = ("float32", "bfloat16") if scale.dry else ("autocast", "bfloat16")
    found: list[dict[str, Any]] = []
    for mode, name in ((mode, name) for name in names for mode in modes):
        found.append(_one(scale, name, mode, expected))
        keep(scale, "attention", {"attentions": found, "not_here": absent})
    faults = [f"{one['attention']} ({one['mode']}): {why}" for one in found if (why := _fault(one))]
    return {"attentions": found, "not_here": absent, "faults": faults}


def _one(scale: Scale, name: str, mode: str, expected: torch.Tensor) -> dict[str, Any]:
    one: dict[str, Any] = {"attention": name, "mode": mode}
    try:
        error = (_gradients(scale, name, mode) - expected).norm() / expected.norm()
        one |= {"error": float(error), "kernels": _kernels(scale, name, mode)}
        for rows, seq_len in ((2, 128), (1, 256)) if scale.dry else ((4, 1024), (1, 8192)):
            work = _step(scale, name, mode, rows, seq_len)
            one[f"ms_{rows}x{seq_len}"] = 1000 * median_seconds(scale, work, times=3 if scale.dry else 10)
    except Exception as error:
        one["failed"] = f"{type(error).__name__}: {error}"[:600]
    return one


def _step(scale: Scale, name: str, mode: str, rows: int, seq_len: int) -> Any:
    """Forward and backward pass of one batch; returns the model."""
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    model = random_model(scale, name, dtype, layers=LAYERS)
    return partial(_pass, scale, model, mode, random_batch(scale, name, random_rows(rows, seq_len, seed=1)))


def _pass(scale: Scale, model: Any, mode: str, batch: Any) -> Any:
    model.zero_grad()
    precision = torch.autocast(scale.device, torch.bfloat16) if mode == "autocast" else nullcontext()
    with precision:
        loss = model(**batch).loss_sum
    loss.backward()
    return model


def _gradients(scale: Scale, name: str, mode: str) -> torch.Tensor:
    """All gradients of the layers, one vector in float32."""
    rows, seq_len = (2, 128) if scale.dry else (4, 1024)
    model = _step(scale, name, mode, rows, seq_len)()
    return torch.cat([p.grad.float().flatten() for p in model.model.layers.parameters()])


def _kernels(scale: Scale, name: str, mode: str) -> list[str]:
    """The operations of attention that take most time, by name."""
    rows, seq_len = (2, 128) if scale.dry else (4, 1024)
    work = _step(scale, name, mode, rows, seq_len)
    work()
    activities = torch.profiler.ProfilerActivity
    kinds = [activities.CPU] if scale.dry else [activities.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        work()
        if not scale.dry:
            torch.cuda.synchronize()
    key = "self_cpu_time_total" if scale.dry else "self_device_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, key))
    named = [event.key for event in events if any(word in event.key.lower() for word in KERNEL_WORDS)]
    return [name[:100] for name in (named or [event.key for event in events])[:KERNELS]]


def _fault(one: dict[str, Any]) -> str | None:
    if "failed" in one:
        return str(one["failed"])
    limit = LIMIT[one["mode"]]
    return None if one["error"] <= limit else f"gradients are {one['error']:.1e} off, at most {limit:.0e}"
