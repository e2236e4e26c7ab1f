"""XXH3-128 digest of a file, read as a stream."""

from __future__ import annotations

from pathlib import Path

import xxhash

READ_BYTES = 1 << 24


def file_xxh3(path: Path) -> str:
    """XXH3-128 of the content of ``path``, 32 hexadecimal digits; costs one read of the file."""
    state = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            state.update(block)
    digest: str = state.hexdigest()
    return digest
