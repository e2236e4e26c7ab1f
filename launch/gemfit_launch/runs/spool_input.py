"""Standard input or a pipe as a file: copied into the cache, named by its content."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import xxhash

from gemfit.core.atomic_file import temporary_name
from gemfit.core.atomic_folder import explaining, make_folder
from gemfit.errors import UserError
from gemfit.schemas.pack_job import cache_folder
from gemfit.schemas.source_file import suffix_of_content

_READ_BYTES = 2**20


def spool_input(source: str, say: Callable[[str], None]) -> Path:
    """A file in the cache with all that can be read from ``source``; equal content is kept once."""
    folder = cache_folder() / "input"
    partial = temporary_name(folder / "stream", "partial-")
    make_folder(folder)
    with explaining(folder / "stream"):
        try:
            with _opened(source) as stream, partial.open("wb") as copy:
                digest, head = _copy(stream, copy)
            path = folder / f"{digest}{suffix_of_content(head)}"
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
    say(f"{source}: {path.stat().st_size:,} bytes, kept for later commands as --data {path}")
    return path


def _opened(source: str) -> BinaryIO:
    if source == "-":
        if sys.stdin.isatty():
            raise UserError("--data -: standard input is a terminal; pipe the data in")
        return sys.stdin.buffer
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror}") from None


def _copy(stream: BinaryIO, copy: BinaryIO) -> tuple[str, bytes]:
    """Copy to the end; the digest and the first bytes."""
    state, head = xxhash.xxh3_128(), b""
    while block := stream.read(_READ_BYTES):
        head = head or block
        state.update(block)
        copy.write(block)
    if not head:
        raise UserError("the input is empty; write one conversation per line")
    return str(state.hexdigest()), head
