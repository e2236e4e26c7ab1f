"""Save and resume a run: the order of things that all ranks go through together.

A save is a snapshot, which needs the engine at rest, and then writing, which needs only the snapshot.
Writing costs two barriers' worth of small messages; a failure on any rank is raised on every rank, after
the staging folder is gone. Random state is not saved: the trainer draws it anew for each step from
(seed, step, rank).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from gemfit.checkpoint import store
from gemfit.checkpoint.integrity import digest_files, write_durable
from gemfit.checkpoint.retention import quarantine, reading
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest, FileDigest
from gemfit.schemas.training_identity import Flat, refuse_changes
from gemfit.train.checkpoint import deepspeed_zero, engine_state
from gemfit.train.collective import on_every_rank, on_first_rank, rank, world_size

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What all checkpoints of one attempt have in common."""

    attempt: int
    strategy: str
    plan_digest: str
    training: Flat
    keep: int
    keep_best: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Everything that this rank writes of one step."""

    step: int
    cursor_row: int
    eval_loss: float | None
    state: engine_state.State
    notes: dict[str, bytes]
    """Small files, by name; rank 0 writes them."""


def take_snapshot(
    *,
    step: int,
    cursor_row: int,
    eval_loss: float | None,
    model: Any,
    optimizer: Any,
    scheduler: Any,
    accelerator: Any,
    copied: bool,
) -> Snapshot:
    """This rank's share of the state after ``step``, in host memory. Not collective.

    ``model`` is the prepared one. Unless ``copied``, it shows whatever the engine does next.
    """
    state = engine_state.collect(model, optimizer, accelerator)
    return Snapshot(
        step=step,
        cursor_row=cursor_row,
        eval_loss=eval_loss,
        state=engine_state.share(state, rank(), world_size(), copied=copied),
        notes=_notes(accelerator.unwrap_model(model), scheduler),
    )


def write(run: RunDir, origin: Origin, snapshot: Snapshot, group: Any = None) -> int:
    """Commit ``snapshot`` as a checkpoint of ``run``; returns its size in bytes.

    Collective, on ``group``, from any thread. Raises ``UserError`` when the disk is full and
    ``SupersededError`` when a newer attempt owns the run; the earlier checkpoints are then untouched.
    """

    def manifest(files: list[FileDigest]) -> CheckpointManifest:
        return CheckpointManifest(
            step=snapshot.step,
            cursor_row=snapshot.cursor_row,
            world_size=world_size(),
            strategy=origin.strategy,
            plan_digest=origin.plan_digest,
            training=dict(origin.training),
            attempt=origin.attempt,
            eval_loss=snapshot.eval_loss,
            files=tuple(files),
        )

    def commit(files: list[FileDigest]) -> None:
        store.commit(run, staging, manifest(files), keep=origin.keep, keep_best=origin.keep_best)

    needed = sum(
        on_every_rank(lambda: engine_state.local_bytes(snapshot.state, first_rank=rank() == 0), group)
    )
    staging = on_first_rank(
        lambda: store.begin(run, snapshot.step, origin.attempt, bytes_needed=needed), group
    )
    try:
        engine_state.write(snapshot.state, staging, group)
        on_first_rank(lambda: _write_notes(staging, snapshot.notes), group)
        digests = on_every_rank(lambda: digest_files(staging, _files_of_rank(staging)), group)
        files = [digest for of_rank in digests for digest in of_rank]
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
    *,
    model: Any,
    optimizer: Any,
    scheduler: Any,
    accelerator: Any,
    training: Flat,
    allowed_changes: Collection[str] = (),
) -> CheckpointManifest | None:
    """Load the newest whole checkpoint into the prepared engine; ``None`` when there is none.

    Collective. One that would go on as another training is a ``UserError``, apart from the keys in
    ``allowed_changes``. Damaged ones are moved to ``quarantine/`` and named in the log.
    """
    found = on_first_rank(lambda: _choose(run, training, allowed_changes))
    if found is None:
        return None
    folder, manifest = found
    with reading(folder):
        engine_state.read(engine_state.collect(model, optimizer, accelerator), folder)
        notes = json.loads((folder / PROGRESS).read_text())
    if engine_state.is_deepspeed(model):
        deepspeed_zero.publish(model, manifest.step)
    _place_scheduler(scheduler, optimizer, notes["scheduler"])
    on_every_rank(lambda: None)  # nobody trains, and nothing is retired, before all have read
    logger.info("resumed at step %d from %s", manifest.step, folder)
    return manifest


def _choose(
    run: RunDir, training: Flat, allowed_changes: Collection[str]
) -> tuple[Path, CheckpointManifest] | None:
    found, passed_over = store.survey(run)
    for damaged, reason in passed_over:
        quarantine(run, damaged, reason)
    if found is not None:
        refuse_changes(found[1].training, training, allowed=allowed_changes, place=str(found[0]))
    return found


def _place_scheduler(scheduler: Any, optimizer: Any, saved: dict[str, Any]) -> None:
    """Put the schedule of this plan where the saved one was: they differ only where that is allowed.

    Learning rates are set as well: a scheduler writes them only when it steps, and the next optimizer
    step comes first.
    """
    lambdas = getattr(scheduler, "scheduler", scheduler)  # accelerate may have wrapped it
    peaks = lambdas.base_lrs
    # DeepSpeed drops a group of parameters that is empty, as one is under LoRA: what is kept by group is this
    # engine's own, and the schedule's function has no state.
    lambdas.load_state_dict(saved | {"base_lrs": peaks, "lr_lambdas": [None] * len(peaks)})
    rates = [peak * share(lambdas.last_epoch) for peak, share in zip(peaks, lambdas.lr_lambdas, strict=True)]
    lambdas._last_lr = rates
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _notes(module: Any, scheduler: Any) -> dict[str, bytes]:
    """The schedule's state, and the model's own configurations so that an export needs nothing else."""
    notes = {PROGRESS: json.dumps({"scheduler": scheduler.state_dict()}, indent=2)}
    for name, attribute in ((CONFIG, "config"), (GENERATION_CONFIG, "generation_config")):
        if (config := getattr(module, attribute, None)) is not None:
            notes[name] = config.to_json_string()
    return {name: text.encode() for name, text in notes.items()}


def _write_notes(staging: Path, notes: dict[str, bytes]) -> None:
    for name, content in notes.items():
        write_durable(staging / name, content)


def _files_of_rank(staging: Path) -> list[Path]:
    """The files that this rank wrote: each digests its own, since others may not see them yet."""
    mine = sorted(staging.glob(f"__{rank()}_*"))
    if rank() == 0:
        mine += [p for p in sorted(staging.iterdir()) if not p.name.startswith("__")]
    return mine
