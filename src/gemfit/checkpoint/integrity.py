"""Integrity of a checkpoint folder: file digests, and the check of a folder against its manifest. No torch.

Making and checking a digest costs one read of the file.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import xxhash

from gemfit.core.file_digest import file_xxh3
from gemfit.core.regular_file import read_regular
from gemfit.errors import UserError
from gemfit.schemas.manifest import CheckpointManifest, FileDigest, missing_or_resized

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.xxh3"
READERS = 8
"""Files that a process reads at once."""


def digest_files(folder: Path, files: Iterable[Path]) -> list[FileDigest]:
    """Size and XXH3-128 of each file, named relative to ``folder``."""
    return [
        FileDigest(path=file.relative_to(folder).as_posix(), bytes=file.stat().st_size, xxh3=file_xxh3(file))
        for file in files
    ]


def digest_of(path: str, content: bytes) -> FileDigest:
    """The entry of a file of this ``content`` in a manifest."""
    return FileDigest(path=path, bytes=len(content), xxh3=xxhash.xxh3_128_hexdigest(content))


def manifest_digest(text: bytes) -> bytes:
    """The content of ``manifest.xxh3``."""
    return xxhash.xxh3_128_hexdigest(text).encode()


def read_manifest(folder: Path) -> CheckpointManifest | str:
    """The manifest, or why it cannot be trusted."""
    path = folder / MANIFEST
    if not path.is_file():
        return f"half-written, {MANIFEST} is missing"
    try:
        expected = read_regular(folder / MANIFEST_DIGEST)
    except FileNotFoundError:
        return f"{MANIFEST_DIGEST} is missing, so {MANIFEST} cannot be trusted"
    except IsADirectoryError:
        return f"{MANIFEST_DIGEST} is a folder, so {MANIFEST} cannot be trusted"
    except UserError as error:
        return f"{error}; {MANIFEST} cannot be trusted"
    if expected != file_xxh3(path).encode():
        return f"{MANIFEST} or {MANIFEST_DIGEST} has changed since it was written"
    return CheckpointManifest.read(path)


def find_damage(folder: Path, manifest: CheckpointManifest) -> str | None:
    """The first difference of ``folder`` from its manifest, in words; ``None`` when it is intact."""
    if problem := missing_or_resized(folder, manifest.files):
        return problem
    verification = verify_contents(folder, manifest.files)
    while True:
        try:
            next(verification)
        except StopIteration as end:
            damage: str | None = end.value
            return damage


def verify_contents(folder: Path, files: Iterable[FileDigest]) -> Generator[None, None, str | None]:
    """Read ``files`` and return the first damage found; yields about once per second meanwhile."""
    pool = ThreadPoolExecutor(READERS)  # xxhash releases the GIL, and disks are faster with a queue
    pending = {pool.submit(content_damage, folder, file) for file in files}
    try:
        while pending:
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
            if damage := next(filter(None, (checked.result() for checked in done)), None):
                return damage
            yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return None


def flush_folder(folder: Path) -> None:
    """Flush the directory entries of ``folder``, so that renames survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content_damage(folder: Path, file: FileDigest) -> str | None:
    """How ``file`` in ``folder`` differs from its digest, in words; ``None`` where it does not."""
    try:
        same = file_xxh3(folder / file.path) == file.xxh3
    except FileNotFoundError:  # the run may have retired the checkpoint meanwhile
        return f"{file.path} is missing"
    return None if same else f"{file.path} has changed since it was written"
