"""Digests of a checkpoint's files, and every way in which a folder can differ from its manifest. No torch.

Making and checking a digest costs one read of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from gemfit.schemas.manifest import CheckpointManifest, FileDigest, missing_or_resized

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.xxh3"
READ_BYTES = 1 << 24


def digest_files(folder: Path, files: Iterable[Path]) -> list[FileDigest]:
    """Size and XXH3-128 of each file, named relative to ``folder``."""
    return [
        FileDigest(path=file.relative_to(folder).as_posix(), bytes=file.stat().st_size, xxh3=_xxh3(file))
        for file in files
    ]


def manifest_digest(text: bytes) -> bytes:
    """What belongs into ``manifest.xxh3``."""
    return xxhash.xxh3_128_hexdigest(text).encode()


def read_manifest(folder: Path) -> CheckpointManifest | str:
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


def find_damage(folder: Path, manifest: CheckpointManifest) -> str | None:
    """The first way in which ``folder`` differs from its manifest, in words; ``None`` when it is whole."""
    if problem := missing_or_resized(folder, manifest.files):
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


def flush_folder(folder: Path) -> None:
    """Make sure that the names in ``folder`` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content_damage(folder: Path, file: FileDigest) -> str | None:
    try:
        same = _xxh3(folder / file.path) == file.xxh3
    except FileNotFoundError:  # the run may retire what somebody else looks at
        return f"{file.path} is missing"
    return None if same else f"{file.path} has changed since it was written"


def _xxh3(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
