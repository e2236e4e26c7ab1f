"""Trained parameters and AdamW state of any engine, by parameter name, in torch.distributed.checkpoint.

One format for all strategies: ``model.NAME``, ``exp_avg.NAME`` and ``exp_avg_sq.NAME`` are fp32 tensors
of the parameter's own shape, ``step.NAME`` is a scalar. Each rank reads what it holds and writes its
share of it; replicas are cut evenly over the ranks. It costs 12 bytes a trained parameter on disk.
"""

from __future__ import annotations

import errno
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gemfit.train.checkpoint import deepspeed_zero
from gemfit.train.checkpoint.dcp_planner import Piece, PieceLoadPlanner, PieceSavePlanner

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT_PREFIX = "model."
FULL = (errno.ENOSPC, errno.EDQUOT)
BYTES_PER_ENTRY = 4096
"""Room for the header around each tensor on disk."""
SMALL = 2**16
"""Elements below which a replica is not worth cutting."""

State: TypeAlias = dict[str, torch.Tensor | Piece]


def collect(model: Any, optimizer: Any, accelerator: Any) -> State:
    """Views of everything that this rank trains; filling them fills the engine. Not collective.

    ``model`` is the prepared one (a ``DeepSpeedEngine`` under ZeRO). Frozen parameters are left out.
    """
    named = _trained_parameters(accelerator.unwrap_model(model))
    if is_deepspeed(model):
        return dict(_zero_entries(model, named))
    return dict(_plain_entries(optimizer, named))


def share(state: State, rank: int, world_size: int, *, copied: bool) -> State:
    """What ``rank`` writes of ``state``, in host memory; the shares of all ranks make up the whole.

    ``copied`` makes it independent of the engine; otherwise tensors that are in host memory stay views.
    """
    parts = {name: _part(value, rank, world_size) for name, value in state.items()}
    return {name: _in_host_memory(part, copied) for name, part in parts.items()}


def write(state: State, folder: Path, group: Any = None) -> None:
    """Save ``state`` into ``folder``, each file flushed. Collective; raises on every rank or on none."""
    with _one_process_is_meant():
        save(
            state,
            storage_writer=FileSystemWriter(folder),
            planner=PieceSavePlanner(flatten_state_dict=False),
            process_group=group,
        )


def read(state: State, folder: Path) -> None:
    """Fill ``state`` in place from ``folder``, saved by any strategy on any number of ranks. Collective.

    Raises where a name or a shape of ``state`` is not what was saved.
    """
    with _one_process_is_meant():
        load(
            state, storage_reader=FileSystemReader(folder), planner=PieceLoadPlanner(flatten_state_dict=False)
        )


def local_bytes(share: State, *, first_rank: bool) -> int:
    """What this rank adds to the checkpoint; small replicas count on the first rank only."""
    return sum(_local_bytes(value) for value in share.values() if first_rank or isinstance(value, Piece))


def is_deepspeed(model: object) -> bool:
    """Whether ``model`` is a DeepSpeed engine (asked without importing DeepSpeed)."""
    return type(model).__name__ == "DeepSpeedEngine"


def is_full_disk(error: BaseException) -> bool:
    """Whether a failed write is due to a full disk or quota on some rank."""
    causes = (
        [failure for failure, _ in error.failures.values()]
        if isinstance(error, CheckpointException)
        else [error]
    )
    return any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes)


def _trained_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            # Activation checkpointing may wrap layers; the name of a weight must not depend on it.
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
) -> Iterator[tuple[str, torch.Tensor | Piece]]:
    inner = engine.optimizer.optimizer
    # Every group of a ZeRO engine is stepped together, so any options tell where `step` lives.
    moments = {
        id(flat): _adam_state(inner, flat, inner.param_groups[0]) for flat in deepspeed_zero.groups(engine)
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
    """AdamW's state of ``parameter``, made as AdamW would make it when no step was taken yet."""
    state: dict[str, torch.Tensor] = optimizer.state[parameter]
    if not state:
        on_device = options.get("fused") or options.get("capturable")
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if on_device else "cpu")
        for key in MOMENTS:
            state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


def _part(value: torch.Tensor | Piece, rank: int, world_size: int) -> torch.Tensor | Piece:
    if isinstance(value, DTensor):
        return piece_of(value)
    if isinstance(value, Piece) or value.numel() < SMALL:
        # The planner lets one of the ranks that hold a small replica write it.
        return value
    start, stop = (value.numel() * edge // world_size for edge in (rank, rank + 1))
    return Piece(value.detach().reshape(-1)[start:stop], start, value.shape)


def piece_of(value: DTensor) -> Piece:
    """The local part of a parameter that FSDP2 has cut along its first dimension."""
    assert all(placement.is_shard(0) or placement.is_replicate() for placement in value.placements)
    _, offsets = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    inner = math.prod(value.shape[1:])
    local: torch.Tensor = value.to_local()
    return Piece(local.detach().reshape(-1), offsets[0] * inner, value.shape)


def _in_host_memory(value: torch.Tensor | Piece, copied: bool) -> torch.Tensor | Piece:
    if isinstance(value, Piece):
        return replace(value, flat=value.flat.detach().to("cpu", copy=copied))
    return value.detach().to("cpu", copy=copied)


def _local_bytes(value: torch.Tensor | Piece) -> int:
    local = value.flat if isinstance(value, Piece) else value
    return local.numel() * local.element_size() + BYTES_PER_ENTRY


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    """Without a process group torch says that it takes this for a single process, which it is."""
    if dist.is_initialized():  # filters of warnings belong to all threads: they are left alone here
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
