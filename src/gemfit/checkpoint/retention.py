"""Checkpoint retention: reader locks, removal of old checkpoints, quarantine of damaged ones. No torch.

A reader holds a shared lock on the manifest; a checkpoint that is being read is neither retired nor
replaced. A folder is renamed before it is removed, so that an interrupted removal leaves no partial
checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gemfit.checkpoint.integrity import MANIFEST
from gemfit.core.atomic_file import write_atomic
from gemfit.core.file_lock import lock_shared, stale_is_missing, try_lock
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest

logger = logging.getLogger(__name__)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Hold a shared lock on a checkpoint while the caller reads it; a retired one is a ``UserError``."""
    gone = UserError(f"{folder}: was retired a moment ago; choose another step, or try again")
    try:
        stream = (folder / MANIFEST).open("rb")
    except FileNotFoundError:
        raise gone from None
    with stream:
        try:
            lock_shared(stream.fileno())
        except FileNotFoundError:
            raise gone from None
        if not (folder / MANIFEST).exists():  # retired between opening and locking it
            raise gone
        yield


@contextmanager
def locked_if_unread(folder: Path, *, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Yield whether ``folder`` has no reader; if so, it is locked against new readers inside."""
    try:
        stream = (folder / MANIFEST).open("r+b")  # for writing: NFS gives no exclusive lock otherwise
    except FileNotFoundError:
        yield True  # without its manifest it is not a checkpoint, and has no readers
        return
    with stream:
        yield _is_locked(stream.fileno(), patience_seconds)


def _is_locked(descriptor: int, patience_seconds: float) -> bool:
    """Whether the lock was taken and the file is still there: another process may remove it meanwhile."""
    try:
        with stale_is_missing():
            return (
                try_lock(descriptor, patience_seconds=patience_seconds) and os.fstat(descriptor).st_nlink > 0
            )
    except FileNotFoundError:
        return False


def retire(
    run: RunDir, checkpoints: list[tuple[Path, CheckpointManifest]], *, keep: int, keep_best: bool
) -> None:
    """Remove all but the first ``keep`` of ``checkpoints`` (newest first) and, if asked, the best one."""
    stay = {folder for folder, _ in checkpoints[:keep]}
    if keep_best and (best := best_of(checkpoints)):
        stay.add(best)
    for folder, _ in checkpoints:
        if folder not in stay:
            remove(run, folder)


def best_of(checkpoints: list[tuple[Path, CheckpointManifest]]) -> Path | None:
    """The checkpoint of lowest validation loss, the newest of equals; ``None`` where none was evaluated."""
    evaluated = [
        (manifest.eval_loss, folder)
        for folder, manifest in checkpoints
        if manifest.eval_loss is not None and math.isfinite(manifest.eval_loss)
    ]
    return min(evaluated, key=lambda pair: pair[0])[1] if evaluated else None


def remove(run: RunDir, folder: Path) -> None:
    """Remove a checkpoint unless it has a reader; then a later save tries again."""
    with locked_if_unread(folder) as free:
        if not free:
            logger.info("%s stays: it is being read", folder)
            return
        retired = run.retired(folder.name)
        folder.rename(retired)
    shutil.rmtree(retired)


def remove_leftovers(run: RunDir) -> None:
    """Remove incomplete staging folders and removals that earlier attempts did not finish."""
    for pattern in (".staging-*", ".retired-*"):
        for leftover in run.checkpoints.glob(pattern):
            shutil.rmtree(leftover)


def quarantine(run: RunDir, folder: Path, reason: str) -> None:
    """Move a damaged checkpoint to ``quarantine/``, with ``reason.txt`` and a line in the log."""
    run.quarantine.mkdir(exist_ok=True)
    target = run.quarantine / folder.name
    for number in range(2, 1000):
        if not target.exists():
            break
        target = run.quarantine / f"{folder.name}.{number}"
    folder.rename(target)
    with suppress(OSError):  # a full disk must not prevent a resume, and the log has the reason too
        write_atomic(target / "reason.txt", f"{reason}\n".encode())
    logger.warning("%s skipped and moved to %s: %s", folder, target, reason)
