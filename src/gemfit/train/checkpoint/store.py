"""The folders of checkpoints: staged, digested, committed by a rename, verified, retired. No torch.

A committed folder holds ``manifest.json`` and, for the manifest itself, ``manifest.xxh3``. Committing
costs one read of what was written (for digests); verifying costs one read of what is resumed.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
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
    free = shutil.disk_usage(run.checkpoints).free
    if free < bytes_needed:
        raise full_disk(run, bytes_needed)
    staging = run.staging(step, attempt)
    staging.mkdir(parents=True)
    return staging


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
    """The checkpoint written last whose every byte is as it was; warns why later ones are passed over."""
    for folder in run.checkpoints.glob(".staging-*"):
        logger.warning("%s passed over: half-written, its save did not end", folder)
    for folder, manifest, problem in _newest_first(run):
        if manifest is not None and (problem := problem or find_damage(folder, manifest.files)) is None:
            return folder, manifest
        logger.warning("%s passed over: %s", folder, problem)
    return None


def valid_checkpoint(run: RunDir, step: int) -> tuple[Path, CheckpointManifest]:
    """The checkpoint of ``step``; one that is missing or damaged is a ``UserError``."""
    folder = run.checkpoint(step)
    if not folder.is_dir():
        steps = [manifest.step for _, manifest, _ in _newest_first(run) if manifest is not None]
        raise UserError(f"{folder}: there is no such checkpoint; steps saved: {_listed(steps)}")
    manifest, problem = _read_manifest(folder)
    if manifest is None or (problem := problem or find_damage(folder, manifest.files)) is not None:
        raise UserError(f"{folder}: is damaged ({problem}); choose another step")
    return folder, manifest


def digest_files(folder: Path, files: Iterable[Path]) -> list[FileDigest]:
    """Size and XXH3-128 of each file, named relative to ``folder``."""
    return [
        FileDigest(path=file.relative_to(folder).as_posix(), bytes=file.stat().st_size, xxh3=_xxh3(file))
        for file in files
    ]


def find_damage(folder: Path, files: Iterable[FileDigest]) -> str | None:
    """The first way in which ``folder`` differs from its digests, in words; ``None`` when it is whole."""
    expected = list(files)
    if problem := next(filter(None, (_size_damage(folder, file) for file in expected)), None):
        return problem
    with ThreadPoolExecutor() as pool:  # xxhash frees the interpreter lock, and disks like a queue
        return next(filter(None, pool.map(lambda file: _content_damage(folder, file), expected)), None)


def write_durable(path: Path, content: bytes) -> None:
    """Write a new file and flush it to disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _newest_first(run: RunDir) -> Iterator[tuple[Path, CheckpointManifest | None, str | None]]:
    """Committed folders by the time they were written, then those that tell nothing."""
    found = [(folder, *_read_manifest(folder)) for folder in run.committed()]
    # Attempt before step: a later attempt that went back supersedes what an earlier one left ahead of it.
    yield from sorted(found, key=lambda entry: _age(entry[1]), reverse=True)


def _age(manifest: CheckpointManifest | None) -> tuple[int, int]:
    return (manifest.attempt, manifest.step) if manifest is not None else (-1, -1)


def _read_manifest(folder: Path) -> tuple[CheckpointManifest | None, str | None]:
    path = folder / MANIFEST
    if not path.is_file():
        return None, f"half-written, {MANIFEST} is missing"
    try:
        manifest = CheckpointManifest.read(path)
        digest = (folder / MANIFEST_DIGEST).read_text()
    except (UserError, UnicodeDecodeError, FileNotFoundError) as error:
        return None, f"{MANIFEST} cannot be trusted: {error}"
    problem = f"{MANIFEST} has changed since it was written" if digest != _xxh3(path) else None
    return manifest, problem


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
    for folder, _, _ in list(_newest_first(run))[keep:]:
        _remove(folder)


def _discard_replaced(run: RunDir) -> None:
    """Remove what a checkpoint of the same step has replaced."""
    for step in {manifest.step for _, manifest, _ in _newest_first(run) if manifest is not None}:
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
