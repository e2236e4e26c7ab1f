"""Checkpoint store: folders are staged, committed by a rename, and found again. No torch.

A committed folder holds ``manifest.json`` and, for the manifest itself, ``manifest.xxh3``. Committing
costs one read of what was written (for digests); verifying costs one read of what is resumed.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from gemfit.checkpoint.integrity import (
    MANIFEST,
    MANIFEST_DIGEST,
    find_damage,
    flush_folder,
    manifest_digest,
    read_manifest,
)
from gemfit.checkpoint.retention import best_of, locked_if_unread, remove, remove_leftovers, retire
from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest

logger = logging.getLogger(__name__)

READER_PATIENCE_SECONDS = 600.0
"""How long a commit waits for a reader of the older checkpoint of the same step."""

Found = tuple[Path, CheckpointManifest]


class SupersededError(RuntimeError):
    """A newer attempt owns the run: this process must not write to it."""


def begin(run: RunDir, step: int, attempt: int, *, bytes_needed: int) -> Path:
    """Make an empty staging folder, after removing incomplete folders of earlier attempts.

    Raises ``SupersededError`` when a newer attempt has begun, ``UserError`` when the disk is too full.
    """
    check_not_superseded(run, attempt)
    remove_leftovers(run)
    _discard_replaced(run)
    if not has_room(run, bytes_needed):
        raise full_disk(run, bytes_needed)
    staging = run.staging(step, attempt)
    staging.mkdir(parents=True)
    return staging


def discard(run: RunDir, staging: Path, *, bytes_needed: int) -> bool:
    """Remove a failed ``staging`` folder; returns whether the disk was too small for the checkpoint.

    The writer's error does not always say so: torch reports some failed writes without their cause.
    """
    written = sum(path.stat().st_size for path in staging.glob("*"))
    ran_out = shutil.disk_usage(run.checkpoints).free + written < bytes_needed
    shutil.rmtree(staging, ignore_errors=True)
    return ran_out


def has_room(run: RunDir, bytes_needed: int) -> bool:
    """Whether the file system has that much free; a quota may still be smaller."""
    return shutil.disk_usage(run.checkpoints).free >= bytes_needed


def check_not_superseded(run: RunDir, attempt: int) -> None:
    """Raise ``SupersededError`` when the run is at a newer attempt than ``attempt``."""
    if run.attempt > attempt:
        raise SupersededError(
            f"{run.root}: attempt {attempt} may not write: attempt {run.attempt} has taken over this run"
        )


def full_disk(run: RunDir, bytes_needed: int) -> UserError:
    """The error for a checkpoint that does not fit."""
    free = shutil.disk_usage(run.checkpoints).free
    but = " (a quota, or the number of files, must be used up)" if free >= bytes_needed else ""
    return UserError(
        f"{run.checkpoints}: the disk is full: a checkpoint takes {bytes_needed:,} bytes and "
        f"{free:,} are free{but}; earlier checkpoints are intact: free some space or lower checkpoint.keep, "
        "then resume"
    )


def commit(
    run: RunDir, staging: Path, manifest: CheckpointManifest, *, keep: int, keep_best: bool = False
) -> Path:
    """Rename ``staging`` to the checkpoint of its step, then retire all but the ``keep`` newest.

    Every file that the manifest names must be written and flushed. A crash at any point leaves the
    checkpoints that were there before, or the new one as well. ``keep_best`` spares the one of lowest
    validation loss too. The new one was written a moment ago, so a valid one always remains.
    """
    text = manifest.to_json().encode()
    write_atomic(staging / MANIFEST_DIGEST, manifest_digest(text))
    # The manifest goes last: a reader that finds it may trust every other file in the folder.
    write_atomic(staging / MANIFEST, text)
    flush_folder(staging)
    check_not_superseded(run, manifest.attempt)
    target = run.checkpoint(manifest.step)
    if target.exists():
        # It stays under a name that a resume looks at too, until the new one is in place.
        with locked_if_unread(target, patience_seconds=READER_PATIENCE_SECONDS):
            target.rename(run.replaced(manifest.step))
    staging.rename(target)
    flush_folder(run.checkpoints)
    _discard_replaced(run)
    retire(run, _newest_first(run)[0], keep=keep, keep_best=keep_best)
    return target


def newest_valid(run: RunDir) -> Found | None:
    """The newest checkpoint without damage; warns of each one that is skipped, and why."""
    found, damaged = survey(run)
    for folder, reason in damaged:
        logger.warning("%s skipped: %s", folder, reason)
    return found


def survey(run: RunDir) -> tuple[Found | None, list[tuple[Path, str]]]:
    """The newest valid checkpoint, and each damaged folder that is newer, with the reason."""
    checkpoints, damaged = candidates(run)
    for folder, manifest in checkpoints:
        damage = find_damage(folder, manifest)
        if damage is None:
            return (folder, manifest), damaged
        damaged.append((folder, damage))
    return None, damaged


def candidates(run: RunDir) -> tuple[list[Found], list[tuple[Path, str]]]:
    """Checkpoints to verify, newest first, and folders without a valid manifest, with the reason."""
    for folder in run.checkpoints.glob(".staging-*"):
        logger.warning("%s skipped: half-written, its save did not end", folder)
    return _newest_first(run)


def newest_listed(run: RunDir) -> Found | None:
    """The newest checkpoint with an intact manifest; its other files are not read."""
    return next(iter(_newest_first(run)[0]), None)


def checkpoint_of_step(run: RunDir, step: int, *, verify: bool = True) -> Found:
    """The checkpoint of ``step``; one that is missing or damaged is a ``UserError``.

    Without ``verify`` only its manifest is read.
    """
    folder = run.checkpoint(step)
    if not folder.is_dir():
        steps = [manifest.step for _, manifest in _newest_first(run)[0]]
        raise UserError(f"{folder}: there is no such checkpoint; steps saved: {_listed(steps)}")
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        raise _damaged(folder, manifest)
    if verify and (damage := find_damage(folder, manifest)) is not None:
        raise _damaged(folder, damage)
    return folder, manifest


def best_checkpoint(run: RunDir, *, verify: bool = True) -> Found:
    """The checkpoint of lowest validation loss; a damaged one, or none, is a ``UserError``."""
    checkpoints = _newest_first(run)[0]
    best = best_of(checkpoints)
    if best is None:
        steps = _listed([manifest.step for _, manifest in checkpoints])
        raise UserError(
            f"{run.checkpoints}: no checkpoint was saved at an evaluated step, so there is no best one; "
            f"steps saved: {steps}"
        )
    step = next(manifest.step for folder, manifest in checkpoints if folder == best)
    return checkpoint_of_step(run, step, verify=verify)


def _damaged(folder: Path, problem: str) -> UserError:
    return UserError(f"{folder}: is damaged ({problem}); choose another step")


def _newest_first(run: RunDir) -> tuple[list[Found], list[tuple[Path, str]]]:
    """Committed checkpoints, newest first, and folders whose manifest cannot be trusted, with the reason."""
    found = [(folder, read_manifest(folder)) for folder in run.committed()]
    checkpoints = [(folder, entry) for folder, entry in found if not isinstance(entry, str)]
    # Attempt before step: a later attempt that resumed further back supersedes newer steps of an earlier one.
    checkpoints.sort(key=lambda pair: (pair[1].attempt, pair[1].step), reverse=True)
    return checkpoints, [(folder, entry) for folder, entry in found if isinstance(entry, str)]


def _discard_replaced(run: RunDir) -> None:
    """Remove older checkpoints that one of the same step has replaced."""
    for step in {manifest.step for _, manifest in _newest_first(run)[0]}:
        if run.replaced(step).exists() and run.checkpoint(step).exists():
            remove(run, run.replaced(step))


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, sorted(steps))) or "none"
