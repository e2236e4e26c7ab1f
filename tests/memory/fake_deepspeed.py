"""DeepSpeed over torch's fake process group, as one of many ranks that do not exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memory.fsdp2_peaks import fake_rank


@contextmanager
def deepspeed_on_fake_rank(rank: int, ranks: int) -> Iterator[Any]:
    """The module ``deepspeed``; inside, its process group is that of ``rank`` among ``ranks``."""
    import deepspeed  # noqa: PLC0415  (seconds of imports that FSDP2 does not need)
    from deepspeed.utils import groups  # noqa: PLC0415

    os.environ |= {"WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": "0"}
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with fake_rank(rank, ranks):
        deepspeed.comm.comm.cdb = groups._WORLD_GROUP = None  # of the rank before
        deepspeed.init_distributed("fake", auto_mpi_discovery=False)
        yield deepspeed
