"""CUDA compute capability of a kind of GPU, and of this machine's GPUs."""

from __future__ import annotations

import os

from gemfit.core.nvidia_smi import (
    NvidiaSmiFault,
    NvidiaSmiUnavailable,
    compute_capability,
    query_gpus,
    selected_rows,
)
from gemfit_launch.predict.gpu_specs import GpuSpec

Capability = tuple[int, int]

CAPABILITIES: dict[str, Capability] = {
    "rtx-4090-24": (8, 9),
    "l4-24": (8, 9),
    "a10g-24": (8, 6),
    "a100-40": (8, 0),
    "l40s-48": (8, 9),
    "a100-80": (8, 0),
    "h100-pcie-80": (9, 0),
    "h100-80": (9, 0),
    "h100-nvl-94": (9, 0),
    "h200-141": (9, 0),
    "h200-nvl-141": (9, 0),
    "b200-180": (10, 0),
}
"""By the name of a GPU, as NVIDIA lists them."""
BFLOAT16: Capability = (8, 0)
"""Older GPUs have no bfloat16 units: torch emulates it, slower than float32."""
QUERY_SECONDS = 20


def capability_of(gpu: GpuSpec | None) -> Capability | None:
    """The compute capability of ``gpu``; ``None`` where none is named."""
    return CAPABILITIES[gpu.name] if gpu is not None else None


def capabilities_here() -> list[Capability] | None:
    """Compute capabilities of the visible GPUs; ``None`` where the driver does not give one of them."""
    fields = ("index", "uuid", "compute_cap")
    try:
        rows = query_gpus(fields, timeout_seconds=QUERY_SECONDS)
    except (NvidiaSmiFault, NvidiaSmiUnavailable):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and len({row["compute_cap"] for row in rows}) > 1:
        # CUDA numbers GPUs by speed and the driver by bus, unless CUDA_DEVICE_ORDER says otherwise.
        if "GPU-" not in visible and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            return None
        rows = selected_rows(rows, visible)
    found = [compute_capability(row["compute_cap"]) for row in rows]
    known = [capability for capability in found if capability is not None]
    return known if known and len(known) == len(found) else None


def capability_here() -> Capability | None:
    """The lowest compute capability of the visible GPUs; ``None`` where the driver does not give it."""
    found = capabilities_here()
    return min(found) if found is not None else None


def dotted(capability: Capability) -> str:
    """Such as ``9.0``."""
    return ".".join(map(str, capability))
