"""Trained parameters and AdamW state of any engine, by parameter name, in torch.distributed.checkpoint.

One format for all strategies: ``model.NAME``, ``exp_avg.NAME`` and ``exp_avg_sq.NAME`` are fp32 tensors
of the parameter's own shape, ``step.NAME`` is a scalar. Each rank writes and reads what it holds;
replicas are written once. It costs 12 bytes a trained parameter on disk and no extra memory.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from gemfit.train.checkpoint import zero
from gemfit.train.checkpoint.pieces import Piece, PieceLoadPlanner, PieceSavePlanner

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT_PREFIX = "model."
FULL = (errno.ENOSPC, errno.EDQUOT)
BYTES_PER_ENTRY = 4096
"""Room for the header around each tensor on disk."""

State: TypeAlias = dict[str, torch.Tensor | Piece]


def collect(model: Any, optimizer: Any, accelerator: Any) -> State:
    """Views of everything that this rank trains; filling them fills the engine. Not collective.

    ``model`` is the prepared one (a ``DeepSpeedEngine`` under ZeRO). Frozen parameters are left out.
    """
    named = _trained_parameters(accelerator.unwrap_model(model))
    if is_deepspeed(model):
        return dict(_zero_entries(model, named))
    return dict(_plain_entries(optimizer, named))


def write(state: State, folder: Path) -> None:
    """Save ``state`` into ``folder``, each file flushed. Collective; raises on every rank or on none."""
    with _one_process_is_meant():
        save(
            state, storage_writer=FileSystemWriter(folder), planner=PieceSavePlanner(flatten_state_dict=False)
        )


def read(state: State, folder: Path) -> None:
    """Fill ``state`` in place from ``folder``, saved by any strategy on any number of ranks. Collective.

    Raises where a name or a shape of ``state`` is not what was saved.
    """
    with _one_process_is_meant():
        load(
            state, storage_reader=FileSystemReader(folder), planner=PieceLoadPlanner(flatten_state_dict=False)
        )


def local_bytes(state: State, *, first_rank: bool) -> int:
    """What this rank adds to the checkpoint; replicated tensors count on the first rank only."""
    return sum(_local_bytes(value) for value in state.values() if first_rank or not _is_replica(value))


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
    moments = {id(flat): _adam_state(inner, flat, inner.param_groups[0]) for flat in zero.groups(engine)}
    for name, parameter in named:
        fragment = zero.fragment_of(engine, parameter)
        if fragment is None:
            continue
        shape, state = zero.shape_of(parameter), moments[id(fragment.flat)]
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


def _is_replica(value: torch.Tensor | Piece) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, DTensor)


def _local_bytes(value: torch.Tensor | Piece) -> int:
    local = value.flat if isinstance(value, Piece) else value
    local = local.to_local() if isinstance(local, DTensor) else local
    return local.numel() * local.element_size() + BYTES_PER_ENTRY


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        # Without a process group torch says that it takes this for a single process, which it is.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
