"""Input files of a pack: size, modification time and content digest."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Literal

from gemfit.errors import UserError
from gemfit.schemas.base import Contract

Compression = Literal["gzip", "bzip2", "xz", "zstd"]
Kind = Literal["jsonl", "json", "csv", "parquet"]
KIND_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
COMPRESSION_SUFFIXES: dict[str, Compression] = {
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
}
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (rb"\x1f\x8b", "gzip"),
    (rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)", "bzip2"),
    (rb"\xfd7zXZ\x00", "xz"),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd"),  # a frame, or one to be skipped
)
_PARQUET = b"PAR1"
_JSON = rb"(\xef\xbb\xbf)?\s*([{\[]|$)"
_ARRAY = rb"(\xef\xbb\xbf)?\s*\["
_ARCHIVES = ((rb"PK\x03\x04", "zip"), (rb"7z\xbc\xaf\x27\x1c", "7z"), (rb"Rar!\x1a\x07", "rar"))
_HEAD_BYTES = 64
_PLACEHOLDERS = (
    (rb"version https://git-lfs", "is a pointer of Git LFS; run git lfs pull"),
    (
        rb"\s*<(!doctype|html)",
        "is a web page; download the file that it shows (a link with /resolve/ or /raw/)",
    ),
)
"""What downloads leave in place of a file, and the way out."""


class SourceFile(Contract):
    """One input file, as it was when the pack was planned."""

    path: str
    bytes: int
    xxh3: str
    """XXH3-128 of the content, in hexadecimal."""
    modified_ns: int = 0
    """Modification time: while it and the size stay, the content is taken to be the same."""
    source: int = 0
    """Index into the sources of the job."""
    compression: Compression | None = None
    """As its first bytes say, whatever its name says; `None` if it is not compressed."""
    kind: Kind = "jsonl"
    """`json` is an array, or lines."""

    @property
    def is_compressed(self) -> bool:
        """Whether ``bytes`` is not the size of its text; Parquet files are compressed inside."""
        return self.compression is not None or self.kind == "parquet"


def digest_files(paths: Sequence[Path]) -> list[SourceFile]:
    """Digest files on several threads: reading and hashing release the GIL."""
    unique = list(dict.fromkeys(paths))  # two sources may name one file
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(unique, pool.map(digest_file, unique), strict=True))
    return [found[path] for path in paths]


def digest_file(path: Path) -> SourceFile:
    """Size, modification time and digest of a file; unreadable and empty files are a ``UserError``.

    A process reads a file again only after its size, modification time or inode has changed.
    """
    try:
        status = path.stat()
        xxh3 = _xxh3(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if status.st_size == 0:
        raise UserError(f"{path}: is empty; write one conversation per line")
    return SourceFile(
        path=str(path),
        bytes=status.st_size,
        xxh3=xxh3,
        modified_ns=status.st_mtime_ns,
        compression=compression_of(head, path.name),
        kind="parquet" if head.startswith(_PARQUET) else kind_by_name(path.name) or "jsonl",
    )


def compression_of(head: bytes, name: str) -> Compression | None:
    """The compression of a file that begins with ``head``: its first ten bytes or more.

    Its name counts only where the content is neither compressed nor JSON.
    """
    found = next((kind for magic, kind in _MAGIC if re.match(magic, head, re.DOTALL)), None)
    return found or (None if re.match(_JSON, head) else compression_by_name(name))


def compression_by_name(path: str) -> Compression | None:
    """The compression that a file's name promises."""
    return COMPRESSION_SUFFIXES.get(Path(path).suffix.lower())


def suffix_of_content(head: bytes) -> str:
    """The suffix for a file that begins with ``head`` and has no name: lines, unless it is something else."""
    compression = compression_of(head, "")
    if compression is not None:
        return ".jsonl" + next(suffix for suffix, kind in COMPRESSION_SUFFIXES.items() if kind == compression)
    if head.startswith(_PARQUET):
        return ".parquet"
    return ".json" if re.match(_ARRAY, head) else ".jsonl"


def kind_by_name(name: str) -> Kind | None:
    """The kind of a file that its name promises; `None` for one that is not read.

    A name without a suffix below that of a compression is taken for lines.
    """
    compressed = compression_by_name(name) is not None
    suffix = Path(Path(name).stem if compressed else name).suffix.lower()
    if compressed and not suffix:
        return "jsonl"
    kind = KIND_SUFFIXES.get(suffix)
    return None if compressed and kind == "parquet" else kind


def check_readable(file: SourceFile) -> None:
    """``UserError`` for an archive of files, which has to be unpacked first, and for no data at all."""
    with Path(file.path).open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    for magic, name in _ARCHIVES:
        if re.match(magic, head):
            raise UserError(f"{file.path}: is a {name} archive; unpack it, and give the files in it")
    for begin, what in _PLACEHOLDERS:
        if re.match(begin, head, re.IGNORECASE):
            raise UserError(f"{file.path}: {what}")


def content_note(file: SourceFile) -> str | None:
    """What to say of a file whose name and content differ in their compression."""
    named, found = compression_by_name(file.path), file.compression
    if file.kind == "parquet" and kind_by_name(file.path) != "parquet":
        return f"{file.path}: is Parquet inside, whatever its name says; read as such"
    if named == found:
        return None
    if found is None:
        return f"{file.path}: is not compressed, though its name says {named}; read as it is"
    return f"{file.path}: is {found} inside, though its name says {named or 'nothing of it'}; decompressed"


@cache
def _xxh3(path: Path, size: int, modified_ns: int, inode: int) -> str:
    """Digest of a file's content; the other arguments say which version of the file it is of."""
    from gemfit.core.file_digest import file_xxh3  # noqa: PLC0415  (most commands digest nothing)

    return file_xxh3(path)
