"""The folders of checkpoints: staged, digested, committed by a rename, verified, retired. No torch.

A committed folder holds ``manifest.json`` and, for the manifest itself, ``manifest.xxh3``. Committing
costs one read of what was written (for digests); verifying costs one read of what is resumed.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from gemfit.errors import UserError
from gemfit.manifest import CheckpointManifest, FileDigest
from gemfit.rundir import RunDir

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.xxh3"
READ_BYTES = 1 << 24


class SupersededError(RuntimeError):
    """A newer attempt owns the run: this process must not write into it any more."""


def begin(run: RunDir, step: int, attempt: int, *, bytes_needed: int) -> Path:
    """Make an empty staging folder, after clearing what earlier attempts left half-written.

    Raises ``SupersededError`` when a newer attempt has begun, ``UserError`` when the disk is too full.
    """
    refuse_superseded(run, attempt)
    for leftover in run.checkpoints.glob(".staging-*"):
        shutil.rmtree(leftover)
    _discard_replaced(run)
    if not has_room(run, bytes_needed):
        raise full_disk(run, bytes_needed)
    staging = run.staging(step, attempt)
    staging.mkdir(parents=True)
    return staging


def discard(run: RunDir, staging: Path, *, bytes_needed: int) -> bool:
    """Remove a failed ``staging``; tells whether the disk was too small for what it should have held.

    Writers do not always say so: torch's reports some failed writes without their cause.
    """
    written = sum(path.stat().st_size for path in staging.glob("*"))
    ran_out = shutil.disk_usage(run.checkpoints).free + written < bytes_needed
    shutil.rmtree(staging, ignore_errors=True)
    return ran_out


def has_room(run: RunDir, bytes_needed: int) -> bool:
    """Whether the file system has that much free; a quota may still be smaller."""
    return shutil.disk_usage(run.checkpoints).free >= bytes_needed


def refuse_superseded(run: RunDir, attempt: int) -> None:
    """Raise ``SupersededError`` when the run is at a newer attempt than ``attempt``."""
    if run.attempt > attempt:
        raise SupersededError(
            f"{run.root}: attempt {attempt} may not write: attempt {run.attempt} has taken over this run"
        )


def full_disk(run: RunDir, bytes_needed: int) -> UserError:
    """What to tell when a checkpoint does not fit."""
    free = shutil.disk_usage(run.checkpoints).free
    return UserError(
        f"{run.checkpoints}: the disk is full: a checkpoint takes {bytes_needed:,} bytes and "
        f"{free:,} are free; earlier checkpoints are intact: free some space or lower checkpoint.keep, "
        "then resume"
    )


def commit(run: RunDir, staging: Path, manifest: CheckpointManifest, *, keep: int) -> Path:
    """Turn ``staging`` into the checkpoint of its step, then retire all but the ``keep`` newest.

    Every file that the manifest names must be written and flushed. A crash at any point leaves the
    checkpoints that were there before, or the new one as well.
    """
    text = manifest.to_json().encode()
    write_durable(staging / MANIFEST_DIGEST, xxhash.xxh3_128_hexdigest(text).encode())
    # The manifest goes last: a reader that finds it may trust every other file in the folder.
    write_durable(staging / MANIFEST, text)
    _flush_folder(staging)
    refuse_superseded(run, manifest.attempt)
    target, replaced = run.checkpoint(manifest.step), run.replaced(manifest.step)
    if target.exists():
        # Kept under a name that readers look at too, until the new one is in place.
        target.rename(replaced)
    staging.rename(target)
    _flush_folder(run.checkpoints)
    _discard_replaced(run)
    _retire(run, keep)
    return target


def newest_valid(run: RunDir) -> tuple[Path, CheckpointManifest] | None:
    """The checkpoint written last whose every byte is as it was; warns why others are passed over."""
    for folder in run.checkpoints.glob(".staging-*"):
        logger.warning("%s passed over: half-written, its save did not end", folder)
    checkpoints, unreadable = _newest_first(run)
    for folder, problem in unreadable:
        logger.warning("%s passed over: %s", folder, problem)
    for folder, manifest in checkpoints:
        damage = find_damage(folder, manifest)
        if damage is None:
            return folder, manifest
        logger.warning("%s passed over: %s", folder, damage)
    return None


def valid_checkpoint(run: RunDir, step: int) -> tuple[Path, CheckpointManifest]:
    """The checkpoint of ``step``; one that is missing or damaged is a ``UserError``."""
    folder = run.checkpoint(step)
    if not folder.is_dir():
        steps = [manifest.step for _, manifest in _newest_first(run)[0]]
        raise UserError(f"{folder}: there is no such checkpoint; steps saved: {_listed(steps)}")
    manifest = _read_manifest(folder)
    problem = manifest if isinstance(manifest, str) else find_damage(folder, manifest)
    if isinstance(manifest, str) or problem is not None:
        raise UserError(f"{folder}: is damaged ({problem}); choose another step")
    return folder, manifest


def digest_files(folder: Path, files: Iterable[Path]) -> list[FileDigest]:
    """Size and XXH3-128 of each file, named relative to ``folder``."""
    return [
        FileDigest(path=file.relative_to(folder).as_posix(), bytes=file.stat().st_size, xxh3=_xxh3(file))
        for file in files
    ]


def find_damage(folder: Path, manifest: CheckpointManifest) -> str | None:
    """The first way in which ``folder`` differs from its manifest, in words; ``None`` when it is whole."""
    if problem := next(filter(None, (_size_damage(folder, file) for file in manifest.files)), None):
        return problem
    with ThreadPoolExecutor() as pool:  # xxhash frees the interpreter lock, and disks like a queue
        damage = pool.map(lambda file: _content_damage(folder, file), manifest.files)
        return next(filter(None, damage), None)


def write_durable(path: Path, content: bytes) -> None:
    """Write a new file and flush it to disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _newest_first(
    run: RunDir,
) -> tuple[list[tuple[Path, CheckpointManifest]], list[tuple[Path, str]]]:
    """Committed folders by the time they were written, and those whose manifest cannot be trusted."""
    found = [(folder, _read_manifest(folder)) for folder in run.committed()]
    checkpoints = [(folder, entry) for folder, entry in found if not isinstance(entry, str)]
    # Attempt before step: a later attempt that went back supersedes what an earlier one left ahead of it.
    checkpoints.sort(key=lambda pair: (pair[1].attempt, pair[1].step), reverse=True)
    return checkpoints, [(folder, entry) for folder, entry in found if isinstance(entry, str)]


def _read_manifest(folder: Path) -> CheckpointManifest | str:
    """The manifest, or why it cannot be trusted."""
    path = folder / MANIFEST
    if not path.is_file():
        return f"half-written, {MANIFEST} is missing"
    try:
        expected = (folder / MANIFEST_DIGEST).read_bytes()
    except FileNotFoundError:
        return f"{MANIFEST_DIGEST} is missing, so {MANIFEST} cannot be trusted"
    if expected != _xxh3(path).encode():
        return f"{MANIFEST} or {MANIFEST_DIGEST} has changed since it was written"
    return CheckpointManifest.read(path)


def _size_damage(folder: Path, file: FileDigest) -> str | None:
    path = folder / file.path
    if not path.is_file():
        return f"{file.path} is missing"
    size = path.stat().st_size
    return None if size == file.bytes else f"{file.path} has {size:,} bytes where {file.bytes:,} were written"


def _content_damage(folder: Path, file: FileDigest) -> str | None:
    same = _xxh3(folder / file.path) == file.xxh3
    return None if same else f"{file.path} has changed since it was written"


def _xxh3(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _retire(run: RunDir, keep: int) -> None:
    # The newest was committed a moment ago, so one valid checkpoint always remains.
    checkpoints, unreadable = _newest_first(run)
    for folder, _ in [*checkpoints[keep:], *unreadable]:
        _remove(folder)


def _discard_replaced(run: RunDir) -> None:
    """Remove what a checkpoint of the same step has replaced."""
    for step in {manifest.step for _, manifest in _newest_first(run)[0]}:
        if run.replaced(step).exists() and run.checkpoint(step).exists():
            _remove(run.replaced(step))


def _remove(folder: Path) -> None:
    # Without its manifest, a folder whose removal is cut short is not taken for a checkpoint.
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, sorted(steps))) or "none"
