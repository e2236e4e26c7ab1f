"""One machine of two: the rendezvous of node supervisors, then a gloo group over the interface it found."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from gemfit_launch.slurm.node.node import reachable_interface
from gemfit_launch.slurm.node.ranks import gloo_default
from gemfit_launch.slurm.node.rendezvous import rendezvous


def main(rank: int, host: str, choose: bool, result: Path) -> None:
    """Write the sum over both machines, or the error, into ``result``."""
    address = rendezvous(
        rank=rank, nodes=2, host=host, port=29777, token="t", failed=lambda: False, patience_seconds=30
    )
    if choose:
        os.environ |= gloo_default(reachable_interface(address))
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://{host}:29778",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=60 if choose else 3),
        )
        total = torch.ones(1)
        dist.all_reduce(total)
        found = f"{os.environ.get('GLOO_SOCKET_IFNAME')} {total.item():.0f}"
    except RuntimeError as error:
        found = f"failed {str(error).splitlines()[0]}"
    result.write_text(found)
    os._exit(0)  # the other machine may wait for a group that cannot be made


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "choose", Path(sys.argv[4]))
