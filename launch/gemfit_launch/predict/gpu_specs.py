"""GPU specifications from NVIDIA's data sheets, and lookup by GRES type.

A gigabyte is 10⁹ bytes here, as in the data sheets. Drivers report up to 7 % more, since the chips hold
binary gigabytes: that is left as room for the driver itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gemfit.errors import UserError, did_you_mean

GB = 1_000_000_000
USABLE = 0.97
"""Assumed: usable share of the memory in a GPU's name."""


PART_OF_A_GPU = re.compile(r"(?<![a-z])mig(?![a-z])|\d+g[._-]\d+gb")
OTHER_VARIANTS = {"laptop", "mobile", "d"}
"""Words in the names of GPUs with fewer units (`RTX 4090 D`) or less memory."""
OTHER_FORMS = {"pcie", "nvl"}
"""Those of a chip that are slower than its SXM modules."""

GPUS_PER_NODE = 8
"""Default; `--nodes` overrides it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSpec:
    """One kind of GPU."""

    name: str
    memory_bytes: int
    """As in the name."""
    peak_flops: float
    """bfloat16 FLOP/s, dense, with float32 accumulation."""
    memory_bandwidth: float
    """Bytes per second."""
    link_bandwidth: float
    """Bytes per second to the other GPUs of a node, in one direction: NVLink, else PCIe."""
    network_bandwidth: float
    """Assumed: bytes per second and GPU to other nodes, in one direction; not in any data sheet."""

    @property
    def usable_bytes(self) -> int:
        """Upper bound for a plan that fits."""
        return round(USABLE * self.memory_bytes)


def _spec(name: str, teraflops: float, memory_gb: float, link_gb: float, network_gb: float) -> GpuSpec:
    return GpuSpec(
        name=name,
        memory_bytes=int(name.rpartition("-")[2]) * GB,
        peak_flops=teraflops * 1e12,
        memory_bandwidth=memory_gb * GB,
        link_bandwidth=link_gb * GB,
        network_bandwidth=network_gb * GB,
    )


# bf16 dense TFLOP/s, memory GB/s and link GB/s from the data sheets "GeForce RTX 4090", "L4", "A10G" (that of
# the AWS G5 instances), "A100", "L40S", "H100", "H100 NVL", "H200", "H200 NVL", "HGX B200"; where a sheet
# gives a rate with sparsity, half of it, and of NVLink one direction. Network: one 400 Gb/s adapter per GPU
# on HGX H100 and later, 200 Gb/s on A100 and NVL, a tenth of that on GPUs without NVLink: assumed.
GPU_SPECS = {
    gpu.name: gpu
    for gpu in (
        _spec("rtx-4090-24", 165.2, 1008, 32, 2.5),
        _spec("l4-24", 121, 300, 32, 2.5),
        _spec("a10g-24", 70, 600, 32, 2.5),
        _spec("a100-40", 312, 1555, 300, 25),
        _spec("l40s-48", 362, 864, 32, 2.5),
        _spec("a100-80", 312, 2039, 300, 25),
        _spec("h100-pcie-80", 756, 2000, 64, 25),
        _spec("h100-80", 989, 3350, 450, 50),
        _spec("h100-nvl-94", 835, 3900, 300, 25),
        _spec("h200-141", 989, 4800, 450, 50),
        _spec("h200-nvl-141", 835, 4800, 450, 25),
        _spec("b200-180", 2250, 7700, 900, 50),
    )
}


def find_gpu(name: str) -> GpuSpec:
    """The specification of this name; any other is a ``UserError`` that lists all."""
    if name not in GPU_SPECS:
        hint = did_you_mean(name, GPU_SPECS) or "; GPUs: " + ", ".join(GPU_SPECS)
        raise UserError(f"--gpu {name}: there is no such GPU{hint}")
    return GPU_SPECS[name]


def guess_gpu(gpu_kind: str | None) -> GpuSpec | None:
    """The GPU that a GRES type such as ``h100`` or ``nvidia_a100-sxm4-80gb`` names; ``None`` if none does.

    Where the type leaves open the size of the memory, the smaller one is taken. A part of a GPU (MIG) is not
    described by the whole one, nor is a variant with another number of units.
    """
    if gpu_kind is None or PART_OF_A_GPU.search(gpu_kind.lower()):
        return None
    words = re.findall(r"[a-z]+\d+[a-z]*|\d+|[a-z]+", gpu_kind.lower().replace("rtx", "rtx-"))
    if OTHER_VARIANTS & set(words):
        return None
    fitting = [gpu for gpu in GPU_SPECS.values() if _chip(gpu) in words]
    chips = set(map(_chip, fitting))
    if sizes := [int(word) for word in words if word.isdecimal() and word not in chips and len(word) > 1]:
        # No more than the named size: an 80 GB entry does not describe a model of 64 GB.
        fitting = [gpu for gpu in fitting if _size(gpu) <= max(sizes)]
        largest = max(map(_size, fitting), default=0)
        fitting = [gpu for gpu in fitting if _size(gpu) == largest]
    by_form = [gpu for gpu in fitting if _forms(gpu.name.split("-")) == _forms(words)]
    return min(by_form or fitting, key=_size, default=None)


def _forms(words: Iterable[str]) -> set[str]:
    return OTHER_FORMS & set(words)


def _size(gpu: GpuSpec) -> int:
    return int(gpu.name.rpartition("-")[2])


def _chip(gpu: GpuSpec) -> str:
    parts = gpu.name.split("-")
    return parts[1] if parts[0] == "rtx" else parts[0]
