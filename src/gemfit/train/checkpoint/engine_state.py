"""Trained parameters and AdamW state of any engine, by parameter name, in torch.distributed.checkpoint.

One format for all strategies: ``model.NAME``, ``exp_avg.NAME`` and ``exp_avg_sq.NAME`` are fp32 tensors
of the parameter's own shape, ``step.NAME`` is a scalar. Each rank reads what it holds and writes its
share of it; replicas are split evenly over the ranks. It costs 12 bytes per trained parameter on disk.
"""

from __future__ import annotations

import errno
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gemfit.schemas.manifest import FileDigest
from gemfit.train.checkpoint import deepspeed_zero
from gemfit.train.checkpoint.dcp_planner import FlatShard, ShardLoadPlanner, ShardSavePlanner
from gemfit.train.checkpoint.digest_writer import DigestingWriter
from gemfit.train.checkpoint.safe_reader import SafeReader

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT_PREFIX = "model."
FULL = (errno.ENOSPC, errno.EDQUOT)
BYTES_PER_ENTRY = 4096
"""Room for the header around each tensor on disk."""
SMALL = 2**16
"""Elements below which a replica is not split over the ranks."""

State: TypeAlias = dict[str, torch.Tensor | FlatShard]


def collect(model: Any, optimizer: Any, accelerator: Any) -> State:
    """Views of the trained state on this rank; filling them fills the engine. Not collective.

    ``model`` is as the engine wraps it (a ``DeepSpeedEngine`` under ZeRO). Frozen parameters are left out.
    """
    named = _trained_parameters(accelerator.unwrap_model(model))
    if is_deepspeed(model):
        return dict(_zero_entries(model, named))
    return dict(_plain_entries(optimizer, named))


def rank_share(state: State, rank: int, world_size: int) -> State:
    """Views of the share of ``state`` that ``rank`` writes; all shares together are the whole state."""
    return {name: _value_share(value, rank, world_size) for name, value in state.items()}


def write(
    state: State, folder: Path, group: Any = None, *, heartbeat: Callable[[], None] = lambda: None
) -> list[FileDigest]:
    """Save ``state``, in host memory, into ``folder``, each file flushed; the digests of this rank's files.

    Collective; raises on every rank or on none. Makes no CUDA call. ``heartbeat`` is called meanwhile.
    """
    size = sum(map(_local_bytes, state.values()))
    writer = DigestingWriter(folder, bytes_to_write=size, group=group, heartbeat=heartbeat)
    planner = ShardSavePlanner(flatten_state_dict=False)
    with _allow_single_process():
        save(state, storage_writer=writer, planner=planner, process_group=group)
    return writer.digests


def read(state: State, source: Path | SafeReader) -> None:
    """Fill ``state`` in place from a checkpoint, saved by any strategy on any number of ranks. Collective.

    ``source`` is its folder, or a reader of it, which parses the metadata once for several calls.
    Raises where a name or a shape of ``state`` is not what was saved.
    """
    reader = source if isinstance(source, SafeReader) else SafeReader(source)
    reader.read_metadata()  # parsed before the collective, which would wrap its errors
    with _allow_single_process():
        load(state, storage_reader=reader, planner=ShardLoadPlanner(flatten_state_dict=False))


def flat_shards(state: State) -> dict[str, FlatShard]:
    """What this rank holds of each tensor, as views: filling them fills the engine."""
    return {name: _flat_shard(value) for name, value in state.items()}


def _flat_shard(value: torch.Tensor | FlatShard) -> FlatShard:
    if isinstance(value, FlatShard):
        return value
    if isinstance(value, DTensor):
        return local_shard(value)
    return FlatShard(value.detach().view(-1), 0, value.shape)


def local_bytes(shares: State, *, first_rank: bool) -> int:
    """Bytes that this rank adds to the checkpoint; small replicas count on the first rank only."""
    return sum(_local_bytes(value) for value in shares.values() if first_rank or isinstance(value, FlatShard))


def is_deepspeed(model: object) -> bool:
    """Whether ``model`` is a DeepSpeed engine (asked without importing DeepSpeed)."""
    return type(model).__name__ == "DeepSpeedEngine"


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed because of a full disk or quota on some rank."""
    causes = (
        [failure for failure, _ in error.failures.values()]
        if isinstance(error, CheckpointException)
        else [error]
    )
    return any(isinstance(cause, OSError) and cause.errno in FULL for cause in causes)


def _trained_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            # Activation checkpointing may wrap layers; the name of a weight must not depend on that.
            yield name.replace("_checkpoint_wrapped_module.", ""), parameter


def _plain_entries(
    optimizer: Any, named: Iterator[tuple[str, torch.nn.Parameter]]
) -> Iterator[tuple[str, torch.Tensor]]:
    options = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in named:
        moments = _adam_state(optimizer, parameter, options[id(parameter)])
        yield WEIGHT_PREFIX + name, parameter.detach()
        yield f"step.{name}", moments["step"]
        for key in MOMENTS:
            yield f"{key}.{name}", moments[key]


def _zero_entries(
    engine: Any, named: Iterator[tuple[str, torch.nn.Parameter]]
) -> Iterator[tuple[str, torch.Tensor | FlatShard]]:
    inner = engine.optimizer.optimizer
    # ZeRO steps all groups together, so the options of any group tell on which device `step` is.
    moments = {
        id(flat): _adam_state(inner, flat, inner.param_groups[0])
        for flat in deepspeed_zero.fp32_groups(engine)
    }
    for name, parameter in named:
        fragment = deepspeed_zero.fragment_of(engine, parameter)
        if fragment is None:
            continue
        shape, state = deepspeed_zero.shape_of(parameter), moments[id(fragment.flat)]
        yield WEIGHT_PREFIX + name, fragment.of(fragment.flat, shape)
        yield f"step.{name}", state["step"]
        for key in MOMENTS:
            yield f"{key}.{name}", fragment.of(state[key], shape)


def _adam_state(optimizer: Any, parameter: torch.Tensor, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """AdamW's state of ``parameter``; before the first step it is created as AdamW would."""
    state: dict[str, torch.Tensor] = optimizer.state[parameter]
    if not state:
        on_device = options.get("fused") or options.get("capturable")
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if on_device else "cpu")
        for key in MOMENTS:
            state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


def _value_share(value: torch.Tensor | FlatShard, rank: int, world_size: int) -> torch.Tensor | FlatShard:
    if isinstance(value, DTensor):
        return share_of_replica(local_shard(value), *replica_of(value))
    if isinstance(value, FlatShard) or value.numel() < SMALL:
        # The planner lets one of the ranks write a small replica.
        return value
    start, stop = (value.numel() * edge // world_size for edge in (rank, rank + 1))
    return FlatShard(value.detach().reshape(-1)[start:stop], start, value.shape)


def replica_of(value: torch.Tensor) -> tuple[int, int]:
    """The copy of a sharded parameter that this rank is part of, and the number of copies (HSDP)."""
    if not isinstance(value, DTensor) or value.device_mesh.ndim == 1:
        return 0, 1
    return value.device_mesh.get_local_rank(0), value.device_mesh.size(0)


def share_of_replica(shard: FlatShard, replica: int, replicas: int) -> FlatShard:
    """The part of ``shard`` that this replica writes; a small one is written by the first."""
    if shard.flat.numel() < SMALL:
        start, stop = (0, shard.flat.numel()) if replica == 0 else (0, 0)
    else:
        start, stop = (shard.flat.numel() * edge // replicas for edge in (replica, replica + 1))
    return replace(shard, flat=shard.flat[start:stop], start=shard.start + start)


def local_shard(value: DTensor) -> FlatShard:
    """The local shard of a parameter that FSDP2 shards along its first dimension."""
    assert all(placement.is_shard(0) or placement.is_replicate() for placement in value.placements)
    _, offsets = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    inner = math.prod(value.shape[1:])
    local: torch.Tensor = value.to_local()
    return FlatShard(local.detach().reshape(-1), offsets[0] * inner, value.shape)


def _local_bytes(value: torch.Tensor | FlatShard) -> int:
    local = value.flat if isinstance(value, FlatShard) else value
    return local.numel() * local.element_size() + BYTES_PER_ENTRY


@contextmanager
def _allow_single_process() -> Iterator[None]:
    """Silence torch's warning that without a process group it assumes a single process."""
    if dist.is_initialized():  # warning filters are shared by all threads, so they stay unchanged here
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
