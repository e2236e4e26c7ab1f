"""Start several ranks of an evaluation on this machine, by torch's launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gemfit.core.available_cores import available_cores
from gemfit.errors import ExitCode, UserError
from gemfit.train.model.attention_checks import prepare_attention

LAUNCHER_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those that torch's launcher listens to, and goes on listening to when it is done."""


def is_rank() -> bool:
    """Whether a launcher has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def start_ranks(argv: Sequence[str], count: int, device: str) -> int:
    """Run ``python -m gemfit.evaluate`` ``count`` times, together; the exit status of the first to fail.

    ``UserError`` for more ranks than there are GPUs.
    """
    _check_gpus(device, count)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="evaluation",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        with _threads_shared_by(count), _launching():
            elastic_launch(config, sys.executable)("-P", "-m", "gemfit.evaluate", *argv)
    except SignalException as signalled:
        return 128 + signalled.sigval
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status in {code.value for code in ExitCode} else ExitCode.FAILED
    return ExitCode.DONE


def _check_gpus(device: str, count: int) -> None:
    found = torch.cuda.device_count()
    if _device(device) == "cuda" and count > found:
        asked = f"--nproc {count}" if count > 1 else "--device cuda"
        raise UserError(
            f"{asked}: there are {found} GPUs; {'ask for as many, or ' if found else ''}use --device cpu"
        )


@contextmanager
def _launching() -> Iterator[None]:
    """Restore signal handlers and log level after torch's launcher."""
    handlers = {number: signal.getsignal(number) for number in LAUNCHER_SIGNALS}
    elastic = logging.getLogger("torch.distributed.elastic")
    level = elastic.level
    # Its report on a failed rank would bury what the rank itself has said.
    elastic.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        elastic.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _threads_shared_by(count: int) -> Iterator[None]:
    """Ranks that start inside share the cores, unless the user says otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    # Every rank would start as many threads as there are cores.
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // count))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


@contextmanager
def as_rank(device: str) -> Iterator[torch.device]:
    """The device of this process; inside, it belongs to the process group of all ranks, if there are more."""
    chosen = _device(device)
    _check_gpus(device, 1)
    prepare_attention(chosen)
    found = torch.device("cpu")
    if chosen == "cuda":
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(found)
    if not is_rank():
        yield found
        return
    backend = "cpu:gloo,cuda:nccl" if chosen == "cuda" else "gloo"
    # The others wait for the first rank while it runs tasks.
    dist.init_process_group(backend, timeout=timedelta(days=1), **_bound(found))
    try:
        yield found
    finally:
        dist.destroy_process_group()


def _bound(device: torch.device) -> dict[str, Any]:
    return {"device_id": device} if device.type == "cuda" else {}


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
