"""CPU backend: real FSDP2 and DeepSpeed without a GPU, on gloo.

accelerate promotes only GPU processes to FSDP and DeepSpeed; on CPUs it silently trains with plain DDP.
Both engines do run on CPUs, so for ``topology.device == "cpu"`` the promotion is completed here, with any
build of torch. It costs nothing at run time and is never applied to a GPU.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import Any, NoReturn

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from gemfit.errors import ExitCode


def use_cpu_backend() -> None:
    """Make every later ``Accelerator`` of this process honour FSDP and DeepSpeed plugins on CPUs.

    Call it before the first ``Accelerator`` or ``TrainingArguments``. Calling it again changes nothing.
    """
    # DeepSpeed picks its accelerator at import; without a GPU it would look for Intel extensions first.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # FSDP2 shards over the kind of device that torch is built for, even where there is none of it.
    torch._C._get_accelerator = lambda check=None: torch.device("cpu")
    original = AcceleratorState.__init__
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def promoted(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if (deepspeed := kwargs.get("deepspeed_plugin")) is not None:
            _promote_to_deepspeed(self, deepspeed)
        elif (fsdp := kwargs.get("fsdp_plugin")) is not None:
            _promote_to_fsdp(self, fsdp)

    AcceleratorState.__init__ = promoted


def _promote_to_fsdp(state: Any, plugin: Any) -> None:
    _set_distributed_type(state, DistributedType.FSDP)
    if state._mixed_precision != "no":
        plugin.set_mixed_precision(state._mixed_precision)
    state.fsdp_plugin = plugin


def _promote_to_deepspeed(state: Any, plugin: Any) -> None:
    import deepspeed  # noqa: PLC0415  (seconds of imports that no other strategy needs)

    # Its shared-memory all-reduce is compiled at first use: that would need a compiler on the node.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Wraps the gloo group that accelerate has opened as a plain CPU process.
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    _set_distributed_type(state, DistributedType.DEEPSPEED)
    if state._mixed_precision != "no":
        plugin.set_mixed_precision(state._mixed_precision)
        # DeepSpeed casts parameters itself: autocast on top would cast twice.
        state._mixed_precision = "no"
    plugin.select(_from_accelerator_state=True)
    state.deepspeed_plugins = plugin


def _set_distributed_type(state: Any, kind: Any) -> None:
    # Later Accelerators copy it from PartialState, so both must say the same.
    state.distributed_type = kind
    PartialState._shared_state["distributed_type"] = kind


def leave(code: int) -> NoReturn:
    """Exit this process with ``code``: destroy the process group, flush, and exit.

    After a failure the group is not destroyed: that would wait for ranks that still wait for this one.
    Threads of gloo and DeepSpeed outlive the interpreter's shutdown and sometimes abort the process (SIGABRT)
    after a successful run; ``os._exit`` ends them first.
    """
    if code != ExitCode.FAILED and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
