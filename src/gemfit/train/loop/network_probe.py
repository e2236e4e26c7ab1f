"""Find the rank whose network is slow: a small exchange around a ring of the ranks at every second step.

A collective ends on all ranks together, so its time names none. In an exchange each rank sends a message to
the rank ``shift`` places on and times the one that it gets; right after the agreement of a step no rank is
late. The shift changes from one exchange to the next: a rank whose sending or receiving is slow with one
partner after the other is at fault, not a partner. Shifts are whole hosts where there are several, so that
all messages of an exchange take the same kind of way. With two hosts or ranks each has one partner, and none
can be named.

Messages go from host memory to host memory over sockets, on GPUs too: NCCL would take memory of the GPU for
each partner, and the training would wait for its kernels. What only NCCL's own network slows is not seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from gemfit.train.collective import COLLECTIVE_TIMEOUT

EVERY = 2
"""Steps from one exchange to the next."""
IN_A_ROW = 8
"""Exchanges in a row after which a rank is named."""
PARTNERS = 4
"""Shifts at most."""
OF_USUAL = 3.0
"""Least time of a message, as a multiple of the usual one: a quarter of the ranks had no longer one."""
OF_STEP = 0.02
"""Least excess as a share of the step, for the messages that its gradients take."""
LEAST_EXCESS_SECONDS = 0.0002
"""Below it, it is the scheduler of the host."""
MESSAGE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class SlowNetwork:
    """A rank whose messages were slow in ``IN_A_ROW`` exchanges; means over these."""

    rank: int
    seconds: float
    """Of a message that it sent or got."""
    others_seconds: float
    """Of the usual message."""


class NetworkProbe:
    """Exchanges messages, and holds the time of the last one until the ranks share it."""

    def __init__(self, *, rank: int, ranks: int, ranks_per_host: int) -> None:
        """Collective."""
        self._rank, self._ranks = rank, ranks
        self._shifts = shifts(ranks, ranks_per_host)
        size = MESSAGE_BYTES if self._shifts else 0
        self._out, self._in = (torch.zeros(size, dtype=torch.uint8, device="cpu") for _ in range(2))
        self._group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if self._shifts else None
        self.seconds = 0.0
        """Of the message that this rank got last; 0 where the ranks share nothing at the next step."""

    def after_step(self, step: int) -> None:
        """Exchange messages if it is time. Collective, right after the ranks have met in ``step``."""
        self.seconds = 0.0
        if not self._shifts or step % EVERY:
            return
        shift = self.shift_of(step)
        began = time.perf_counter()
        # What is sent waits for who gets it, so only the message that arrives is timed.
        arrives = dist.irecv(self._in, (self._rank - shift) % self._ranks, group=self._group)
        leaves = dist.isend(self._out, (self._rank + shift) % self._ranks, group=self._group)
        _wait(arrives)
        self.seconds = time.perf_counter() - began
        _wait(leaves)

    def shift_of(self, step: int) -> int:
        """The shift of the exchange after ``step``."""
        return self._shifts[step // EVERY % len(self._shifts)]

    def slots(self) -> list[float]:
        """The last time at this rank's place, to be summed over all ranks: (ranks,)."""
        return [self.seconds if rank == self._rank else 0.0 for rank in range(self._ranks)]


def _wait(request: dist.Work | None) -> None:
    assert request is not None, "every rank is in the group"
    request.wait()


class SlowNetworkDetector:
    """Counts for each rank the exchanges in a row in which its messages were slow; names each rank once."""

    def __init__(self, ranks: int, step_bytes: int, message_bytes: int) -> None:
        """``step_bytes``: what a rank sends in a step, at least."""
        self._messages = max(1.0, step_bytes / message_bytes)
        self._streaks = np.zeros((2, ranks), np.int64)
        self._sums = np.zeros((2, 2, ranks))
        self._named = np.zeros(ranks, bool)

    def add(self, received: NDArray[np.float64], shift: int, step_seconds: float) -> list[SlowNetwork]:
        """Take the times of the messages that the ranks got in one exchange: (ranks,); new slow ranks."""
        # Up to three messages are slow with a rank: the one that it gets, the one that it sends, and, where
        # sending waits for it, that of the rank which sends to it.
        quarter = (len(received) - 1) // 4
        usual = float(np.partition(received, quarter)[quarter])
        # Message r was received by rank r, and sent by the rank ``shift`` places before.
        times = np.stack([received, np.roll(received, -shift)])
        excess = times - usual
        slow = (
            (times > OF_USUAL * usual)
            & (excess > LEAST_EXCESS_SECONDS)
            & (excess * self._messages > OF_STEP * step_seconds)
        )
        self._streaks = np.where(slow, self._streaks + 1, 0)
        self._sums = np.where(slow, self._sums + np.stack([times, np.full_like(times, usual)]), 0.0)
        gets, sends = self._streaks >= IN_A_ROW
        # Ranks that send to one which gets slowly may be waiting for it.
        waits = (self._streaks[0] >= IN_A_ROW // 2).any()
        due = (gets if waits else sends) & ~self._named
        self._named |= due
        return [self._named_one(int(rank)) for rank in np.flatnonzero(due)]

    def _named_one(self, rank: int) -> SlowNetwork:
        way = int(self._streaks[:, rank].argmax())
        times, usual = self._sums[:, way, rank] / self._streaks[way, rank]
        return SlowNetwork(rank=rank, seconds=float(times), others_seconds=float(usual))


def gradient_bytes(model: torch.nn.Module) -> int:
    """Bytes of the gradients of ``model`` in 16 bits: no less is sent in a step, whatever the engine."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Of a parameter that ZeRO-3 has sharded, torch sees nothing.
    return 2 * sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trained)


def shifts(ranks: int, ranks_per_host: int) -> tuple[int, ...]:
    """Shifts of the exchanges, by whole hosts where there are several; empty where no rank can be named."""
    unit = ranks_per_host if ranks > ranks_per_host else 1
    return tuple(range(unit, ranks, unit))[:PARTNERS] if ranks // unit > 2 else ()
