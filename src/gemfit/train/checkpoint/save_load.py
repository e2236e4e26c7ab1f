"""Save and resume a run: the collective steps that all ranks take in order.

A save is a snapshot, which needs the engine at rest, and then a write, which needs only the snapshot.
Writing costs two barriers' worth of small messages; a failure on any rank is raised on every rank, after
the staging folder is removed. Random state is not saved: the trainer seeds every step anew from
(seed, step, rank).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.distributed.checkpoint.api import CheckpointException

from gemfit.checkpoint import store
from gemfit.checkpoint.integrity import digest_of
from gemfit.checkpoint.retention import quarantine, reading
from gemfit.core.atomic_file import write_atomic
from gemfit.core.json_file import read_json_object
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest, FileDigest, missing_or_resized
from gemfit.schemas.training_identity import Flat, check_changes
from gemfit.train.checkpoint import deepspeed_zero, engine_state, verified_load
from gemfit.train.checkpoint.finite_state import check_finite_state
from gemfit.train.checkpoint.host_copy import HostCopy, HostMemory
from gemfit.train.collective import on_every_rank, on_first_rank, rank, world_size

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"


class StatefulScheduler(Protocol):
    """A learning-rate scheduler of torch, or accelerate's wrapper around one."""

    def state_dict(self) -> dict[str, Any]:
        """Its state as JSON values."""


class ModelUnwrapper(Protocol):
    """What is used of an ``Accelerator``."""

    def unwrap_model(self, model: Any) -> Any:
        """The model inside the engine ``model``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """All that a checkpoint is taken of, and that a resume fills."""

    model: torch.nn.Module
    """As the engine wraps it: a ``DeepSpeedEngine`` under ZeRO."""
    optimizer: torch.optim.Optimizer
    scheduler: StatefulScheduler
    accelerator: ModelUnwrapper


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveContext:
    """What all checkpoints of one attempt share: manifest entries and retention."""

    attempt: int
    strategy: str
    plan_digest: str
    training: Flat
    """The training identity, which a resume compares."""
    keep: int
    keep_best: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Everything that this rank writes of one step."""

    step: int
    cursor_row: int
    eval_loss: float | None
    copy: HostCopy
    """This rank's share of the state, in host memory."""
    side_files: dict[str, bytes]
    """Small files, by name; rank 0 writes them."""


def take_snapshot(
    training: TrainingState,
    memory: HostMemory,
    *,
    step: int,
    cursor_row: int,
    eval_loss: float | None,
    copied: bool,
) -> Snapshot:
    """This rank's share of the state after ``step``, in ``memory`` once its copy is complete. Not collective.

    Unless ``copied``, what is in host memory already stays a view that changes with the engine.
    """
    state = engine_state.collect(training.model, training.optimizer, training.accelerator)
    share = engine_state.rank_share(state, rank(), world_size())
    return Snapshot(
        step=step,
        cursor_row=cursor_row,
        eval_loss=eval_loss,
        copy=memory.copy(share, everything=copied),
        side_files=_side_files(training.accelerator.unwrap_model(training.model), training.scheduler),
    )


def write(
    run: RunDir,
    context: SaveContext,
    snapshot: Snapshot,
    group: Any = None,
    *,
    heartbeat: Callable[[], None] = lambda: None,
) -> int:
    """Commit ``snapshot``, whose copy is complete, as a checkpoint of ``run``; returns its size in bytes.

    Collective, on ``group``, from any thread; calls ``heartbeat`` meanwhile. Raises ``UserError`` when the
    disk is full, ``SupersededError`` when a newer attempt owns the run, ``FloatingPointError`` for a value
    that is not finite; earlier checkpoints then stay.
    """

    def manifest(files: list[FileDigest]) -> CheckpointManifest:
        return CheckpointManifest(
            step=snapshot.step,
            cursor_row=snapshot.cursor_row,
            world_size=world_size(),
            strategy=context.strategy,
            plan_digest=context.plan_digest,
            training=dict(context.training),
            attempt=context.attempt,
            eval_loss=snapshot.eval_loss,
            files=tuple(files),
        )

    def commit(files: list[FileDigest]) -> None:
        store.commit(run, staging, manifest(files), keep=context.keep, keep_best=context.keep_best)

    def measure() -> int:
        check_finite_state(snapshot.copy.state, snapshot.step)
        return engine_state.local_bytes(snapshot.copy.state, first_rank=rank() == 0)

    needed = sum(on_every_rank(measure, group))
    staging = on_first_rank(
        lambda: store.begin(run, snapshot.step, context.attempt, bytes_needed=needed), group
    )
    try:
        own = engine_state.write(snapshot.copy.state, staging, group, heartbeat=heartbeat)
        side_files = on_first_rank(lambda: _write_side_files(staging, snapshot.side_files), group)
        files = [digest for of_rank in on_every_rank(lambda: own, group) for digest in of_rank] + side_files
        on_first_rank(lambda: commit(files), group)
    except (Exception, CheckpointException) as error:  # the latter is a BaseException
        # Every step above fails on all ranks or on none, so all of them come here and wait for it.
        ran_out = on_first_rank(lambda: store.discard(run, staging, bytes_needed=needed), group)
        if ran_out or engine_state.is_full_disk(error):
            raise store.full_disk(run, needed) from error
        raise
    return sum(file.bytes for file in files)


def resume(
    run: RunDir,
    training: TrainingState,
    *,
    identity: Flat,
    allowed_changes: Collection[str] = (),
    heartbeat: Callable[[], None] = lambda: None,
) -> CheckpointManifest | None:
    """Load the newest valid checkpoint into ``training``; ``None`` when there is none.

    Collective. A training identity other than ``identity`` is a ``UserError``, except for the keys in
    ``allowed_changes``. Damaged checkpoints are moved to ``quarantine/`` and named in the log. Each file is
    read once, by one rank, which digests it and loads from it; ``heartbeat`` is called meanwhile.
    """
    found = _load_newest_valid(run, training, partial(_check_identity, identity, allowed_changes), heartbeat)
    if found is None:
        return None
    folder, manifest = found
    scheduler = on_first_rank(lambda: _scheduler_state(folder / PROGRESS))
    if engine_state.is_deepspeed(training.model):
        deepspeed_zero.sync_parameters(training.model, manifest.step)
    _restore_scheduler(training.scheduler, training.optimizer, scheduler)
    logger.info("resumed at step %d from %s", manifest.step, folder)
    return manifest


def _check_identity(identity: Flat, allowed: Collection[str], found: store.Found) -> None:
    folder, manifest = found
    check_changes(manifest.training, identity, allowed=allowed, place=str(folder))


def _load_newest_valid(
    run: RunDir, training: TrainingState, check: Callable[[store.Found], None], heartbeat: Callable[[], None]
) -> store.Found | None:
    """Load the newest checkpoint without damage; newer ones are moved to ``quarantine/``. Collective.

    Damage in what tensors hold is found while they are loaded. Where no other checkpoint overwrites them, a
    ``RuntimeError`` ends the attempt, since the model is no longer the base.
    """
    checkpoints, damaged = on_first_rank(lambda: store.candidates(run))
    for folder, reason in damaged:
        on_first_rank(partial(quarantine, run, folder, reason))
    overwritten = False
    for found in checkpoints:
        folder, manifest = found
        damage = on_first_rank(partial(missing_or_resized, folder, manifest.files))
        if damage is None:
            on_first_rank(partial(check, found))
            with reading(folder):
                overwritten, damage = True, _load(training, folder, manifest, heartbeat)
                on_every_rank(lambda: None)  # nothing is retired before all have read
        if damage is None:
            return found
        on_first_rank(partial(quarantine, run, folder, damage))
    if overwritten:
        raise RuntimeError(
            f"{run.checkpoints}: every checkpoint is damaged, and in {run.quarantine} now; started again, "
            "the run begins with its first step"
        )
    return None


def _load(
    training: TrainingState, folder: Path, manifest: CheckpointManifest, heartbeat: Callable[[], None]
) -> str | None:
    state = engine_state.collect(training.model, training.optimizer, training.accelerator)
    return verified_load.load(engine_state.flat_shards(state), folder, manifest.files, heartbeat)


def _scheduler_state(path: Path) -> dict[str, Any]:
    """State of the scheduler in ``path``; others may have written it, digests included."""
    state = read_json_object(path).get("scheduler")
    if not isinstance(state, dict) or type(state.get("last_epoch")) is not int:
        raise UserError(f"{path}: holds no state of the scheduler with a last_epoch; copy it again")
    return state


def _restore_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Set the scheduler to the saved step, with the peak rates of this plan (a change that may be allowed).

    Learning rates are set as well: a scheduler writes them only when it steps, and the next optimizer
    step comes first.
    """
    lambdas = getattr(scheduler, "scheduler", scheduler)  # accelerate may have wrapped it
    peaks = lambdas.base_lrs
    # DeepSpeed drops an empty parameter group, as there is one under LoRA: per-group values are this engine's
    # own, and the schedule's function has no state.
    lambdas.load_state_dict(saved | {"base_lrs": peaks, "lr_lambdas": [None] * len(peaks)})
    rates = [peak * share(lambdas.last_epoch) for peak, share in zip(peaks, lambdas.lr_lambdas, strict=True)]
    lambdas._last_lr = rates
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _side_files(module: Any, scheduler: StatefulScheduler) -> dict[str, bytes]:
    """The scheduler's state, and the model's own configurations so that an export needs nothing else."""
    files = {PROGRESS: json.dumps({"scheduler": scheduler.state_dict()}, indent=2)}
    for name, attribute in ((CONFIG, "config"), (GENERATION_CONFIG, "generation_config")):
        if (config := getattr(module, attribute, None)) is not None:
            files[name] = config.to_json_string()
    return {name: text.encode() for name, text in files.items()}


def _write_side_files(staging: Path, files: dict[str, bytes]) -> list[FileDigest]:
    for name, content in files.items():
        write_atomic(staging / name, content)
    return [digest_of(name, content) for name, content in files.items()]
