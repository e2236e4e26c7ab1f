"""Cards: what NVIDIA's data sheets say of each, and which one a site means.

A gigabyte is 10⁹ bytes here, as in the data sheets. Drivers report up to 7 % more, since the chips hold
binary gigabytes: that is left as room for the driver itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gemfit.errors import UserError, did_you_mean

GB = 1_000_000_000
USABLE = 0.97
"""Assumed: share of the memory in a card's name that a plan may fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One kind of GPU."""

    name: str
    memory_bytes: int
    """What the name says."""
    peak_flops: float
    """bfloat16, dense, with float32 sums, a second."""
    memory_bandwidth: float
    """Bytes a second."""
    link_bandwidth: float
    """Bytes a second to the other GPUs of a node, one way: NVLink where it has one, else PCIe."""
    network_bandwidth: float
    """Assumed: bytes a second to other nodes, for each GPU, one way; not in any data sheet."""

    @property
    def usable_bytes(self) -> int:
        """A plan that needs more does not fit."""
        return round(USABLE * self.memory_bytes)


def _card(name: str, teraflops: float, memory_gb: float, link_gb: float, network_gb: float) -> Card:
    return Card(
        name=name,
        memory_bytes=int(name.rpartition("-")[2]) * GB,
        peak_flops=teraflops * 1e12,
        memory_bandwidth=memory_gb * GB,
        link_bandwidth=link_gb * GB,
        network_bandwidth=network_gb * GB,
    )


# bf16 dense TFLOP/s, memory GB/s and link GB/s from the data sheets "GeForce RTX 4090", "L4", "A10G" (that of
# the AWS G5 instances), "A100", "L40S", "H100", "H200", "HGX B200"; where a sheet gives a rate with sparsity,
# half of it, and of NVLink one direction. Network: one 400 Gb/s adapter a GPU on HGX H100 and later,
# 200 Gb/s on A100, a tenth of that on cards without NVLink: assumed.
CARDS = {
    card.name: card
    for card in (
        _card("rtx-4090-24", 165.2, 1008, 32, 2.5),
        _card("l4-24", 121, 300, 32, 2.5),
        _card("a10g-24", 70, 600, 32, 2.5),
        _card("a100-40", 312, 1555, 300, 25),
        _card("l40s-48", 362, 864, 32, 2.5),
        _card("a100-80", 312, 2039, 300, 25),
        _card("h100-pcie-80", 756, 2000, 64, 25),
        _card("h100-80", 989, 3350, 450, 50),
        _card("h200-141", 989, 4800, 450, 50),
        _card("b200-180", 2250, 7700, 900, 50),
    )
}


def find_card(name: str) -> Card:
    """The card of this name; ``UserError`` with what there is."""
    if name not in CARDS:
        hint = did_you_mean(name, CARDS) or "; known: " + ", ".join(CARDS)
        raise UserError(f"--gpu {name}: there is no such card{hint}")
    return CARDS[name]


def guess_card(gpu_kind: str | None) -> Card | None:
    """The card that a GRES type such as ``h100`` or ``nvidia_a100-sxm4-80gb`` names; ``None`` if none does.

    Where the type leaves open which memory the card has, the smaller one is taken.
    """
    if gpu_kind is None:
        return None
    words = re.findall(r"[a-z]+\d+[a-z]*|\d+|[a-z]+", gpu_kind.lower().replace("rtx", "rtx-"))
    fitting = [card for card in CARDS.values() if _chip(card) in words]
    if sizes := [card for card in fitting if card.name.rpartition("-")[2] in {w.rstrip("gb") for w in words}]:
        fitting = sizes
    by_slot = [card for card in fitting if ("pcie" in card.name) == ("pcie" in words)] or fitting
    return min(by_slot, key=lambda card: card.memory_bytes, default=None)


def _chip(card: Card) -> str:
    parts = card.name.split("-")
    return parts[1] if parts[0] == "rtx" else parts[0]
