"""CPU cores of a rank: those of the NUMA node that its GPU is attached to.

On a machine of several sockets, pinned memory and threads on the other socket make every copy to or from the
GPU cross the link between them. accelerate's own binding counts GPUs as the driver does, whatever
CUDA_VISIBLE_DEVICES says, and fails where a job was given other cores.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

SYSFS = Path("/sys")


def bind_to_gpu(local_rank: int, local_ranks: int) -> None:
    """Run this process, and threads that it starts from now on, next to GPU ``local_rank``.

    Only on cores that it has already, so a job's or container's share is respected. Nothing changes where the
    machine does not say which cores are next to the GPU, where none of them was given, and where so many GPUs
    are at one node that their ranks would have fewer cores each. That GPUs are missing is found elsewhere.
    """
    if torch.cuda.device_count() < local_ranks:
        return
    nodes = [numa_node(pci_address(number)) for number in range(local_ranks)]
    node, given = nodes[local_rank], os.sched_getaffinity(0)
    if node is None:
        return
    cores = given & cores_of(node)
    fewer = len(cores) * local_ranks < len(given) * nodes.count(node)
    if cores and cores != given and not fewer:
        os.sched_setaffinity(0, cores)
        logger.info("GPU %d: %d of %d cores, those of NUMA node %d", local_rank, len(cores), len(given), node)


def pci_address(number: int) -> str:
    """Address of a visible GPU as sysfs names it, such as ``0000:1b:00.0``."""
    gpu: Any = torch.cuda.get_device_properties(number)  # its stubs lack the address
    return f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"


def numa_node(pci_address: str) -> int | None:
    """NUMA node of a PCI device; ``None`` where the machine does not say."""
    try:
        node = int((SYSFS / "bus/pci/devices" / pci_address / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None  # -1 on machines with one node, and in most virtual ones


def cores_of(node: int) -> set[int]:
    """Cores of a NUMA node; none where the machine does not say."""
    try:
        spans = (SYSFS / f"devices/system/node/node{node}/cpulist").read_text().strip().split(",")
        edges = [tuple(map(int, span.split("-"))) for span in spans if span]
    except (OSError, ValueError):
        return set()
    return {core for edge in edges for core in range(edge[0], edge[-1] + 1)}
