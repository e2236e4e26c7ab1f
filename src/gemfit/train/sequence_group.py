"""Process groups of sequence parallelism: neighbouring ranks that hold a slice of each of their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from gemfit.train.collective import COLLECTIVE_TIMEOUT, rank


@dataclass(frozen=True, slots=True)
class SequenceGroup:
    """The group of this rank, its place in it, and the number of ranks; see ``ALONE``."""

    group: Any
    """A ``ProcessGroup``; ``None`` where a rank holds whole rows."""
    place: int
    degree: int

    def gather(self, slices: torch.Tensor) -> torch.Tensor:
        """The whole of ``slices``, which divide dimension 1 over the group. Collective."""
        if self.degree == 1:
            return slices
        parts = [torch.empty_like(slices) for _ in range(self.degree)]
        dist.all_gather(parts, slices.contiguous(), group=self.group)
        return torch.cat(parts, 1)

    def sum(self, value: float, device: torch.device) -> float:
        """The sum of ``value`` over the group. Collective."""
        total = torch.tensor(value, dtype=torch.float64, device=device)
        if self.degree > 1:
            dist.all_reduce(total, group=self.group)
        return float(total)


ALONE = SequenceGroup(None, 0, 1)
"""Whole rows on each rank: no sequence parallelism."""


def make_sequence_group(degree: int) -> SequenceGroup:
    """The group of this rank among groups of ``degree`` neighbours. Collective; once per process."""
    if degree == 1:
        return ALONE
    group, _ = dist.new_subgroups(group_size=degree, timeout=COLLECTIVE_TIMEOUT)  # type: ignore[no-untyped-call]
    return SequenceGroup(group, rank() % degree, degree)
