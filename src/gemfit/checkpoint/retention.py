"""Which checkpoints stay, which go, and which are put aside. No torch.

A reader holds a shared lock on the manifest; what is read is neither retired nor replaced. A folder is
renamed before it is removed, so that a removal cut short leaves no half of a checkpoint behind.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gemfit.checkpoint.integrity import MANIFEST, write_durable
from gemfit.core.file_lock import lock_shared, try_lock
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.manifest import CheckpointManifest

logger = logging.getLogger(__name__)


@contextmanager
def reading(folder: Path) -> Iterator[int]:
    """Keep a checkpoint where it is while the caller reads it; one that is gone is a ``UserError``.

    Yields the lock's file descriptor: a child that inherits it keeps the checkpoint while it lives.
    """
    gone = UserError(f"{folder}: was retired a moment ago; choose another step, or try again")
    try:
        stream = (folder / MANIFEST).open("rb")
    except FileNotFoundError:
        raise gone from None
    with stream:
        lock_shared(stream.fileno())
        if not (folder / MANIFEST).exists():  # it went between the two lines above
            raise gone
        yield stream.fileno()


@contextmanager
def unread(folder: Path, *, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Whether nobody reads ``folder``; if so, nobody begins to while the caller is inside."""
    try:
        stream = (folder / MANIFEST).open("r+b")  # for writing: NFS gives no exclusive lock otherwise
    except FileNotFoundError:
        yield True  # without its manifest nobody takes it for a checkpoint
        return
    with stream:
        free = try_lock(stream.fileno(), patience_seconds=patience_seconds)
        # Another process may have removed the folder while this one waited.
        yield free and os.fstat(stream.fileno()).st_nlink > 0


def retire(
    run: RunDir, checkpoints: list[tuple[Path, CheckpointManifest]], *, keep: int, keep_best: bool
) -> None:
    """Remove all of ``checkpoints``, newest first, but the first ``keep`` and the one of lowest loss."""
    stay = {folder for folder, _ in checkpoints[:keep]}
    if keep_best and (best := best_of(checkpoints)):
        stay.add(best)
    for folder, _ in checkpoints:
        if folder not in stay:
            remove(run, folder)


def best_of(checkpoints: list[tuple[Path, CheckpointManifest]]) -> Path | None:
    """The checkpoint of lowest held-out loss, the newest of equals; ``None`` where none was measured."""
    measured = [
        (manifest.eval_loss, folder)
        for folder, manifest in checkpoints
        if manifest.eval_loss is not None and math.isfinite(manifest.eval_loss)
    ]
    return min(measured, key=lambda pair: pair[0])[1] if measured else None


def remove(run: RunDir, folder: Path) -> None:
    """Remove a checkpoint, unless somebody reads it: then a later save tries again."""
    with unread(folder) as free:
        if not free:
            logger.info("%s stays: it is being read", folder)
            return
        retired = run.retired(folder.name)
        folder.rename(retired)
    shutil.rmtree(retired)


def remove_leftovers(run: RunDir) -> None:
    """Clear what attempts that were cut short have left half-written or half-removed."""
    for pattern in (".staging-*", ".retired-*"):
        for leftover in run.checkpoints.glob(pattern):
            shutil.rmtree(leftover)


def quarantine(run: RunDir, folder: Path, reason: str) -> None:
    """Put a damaged checkpoint aside, with the reason beside its files, and say so in the log."""
    run.quarantine.mkdir(exist_ok=True)
    target = run.quarantine / folder.name
    for number in range(2, 1000):
        if not target.exists():
            break
        target = run.quarantine / f"{folder.name}.{number}"
    folder.rename(target)
    with suppress(OSError):  # a full disk keeps nobody from resuming, and the log has the reason too
        write_durable(target / "reason.txt", f"{reason}\n".encode())
    logger.warning("%s passed over and moved to %s: %s", folder, target, reason)
