"""Block cache: tokenized blocks on disk, named by a digest of what they were made from.

A tokenized block depends on the bytes of its lines, the tokenizer and the rendering settings, so it is found
again by any build that meets the same block: after an interruption, with lines appended to the file, in
another job of the same array. Reading the columns costs some 70 bytes per conversation; words are
read chunk by chunk (see ``row_gather``).

The cache is bounded: after a build, blocks that were not used for longest go first until
``GEMFIT_BLOCKS_GIB`` (20) are left; 0 keeps none. Blocks that another build used within the last day stay.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from gemfit.core.atomic_file import replacing, write_atomic
from gemfit.data.jsonl.message_batch import TokenizedBlock
from gemfit.errors import UserError
from gemfit.schemas.base import digest_json
from gemfit.schemas.pack_job import PACK_FORMAT, PackJob, cache_folder

MAGIC = b"GEMPART2"
ALIGNMENT = 64
DEFAULT_GIB = 20.0
PART_SETTINGS = (
    "format",
    "eos",
    "loss_on",
    "seq_len",
    "overlong",
    "near_duplicates",
    "pii",
    "columns",
    "roles",
    "ignore_columns",
    "max_line_mib",
)
"""Settings of ``DataRecipe`` that decide what a block becomes."""
USED_LATELY_SECONDS = 86_400
_APART = ("signatures", "words")
"""Columns that are large, and read only by who asks for them."""
_NAMES = tuple(field.name for field in fields(TokenizedBlock) if field.name not in _APART)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockNotes:
    """What is stored with the columns of a tokenized block. Lines count from 1 within the block."""

    lines: int
    blank: int
    rejected: tuple[tuple[int, str], ...]
    """Line and reason."""
    untrained: int = 0
    """Lines that their own `weight` or `train` keeps out of the training."""
    empty_messages: int = 0
    forms: dict[str, int] = field(default_factory=dict)
    """Valid lines by form, without `messages`."""
    pii: dict[str, int]
    engine: str


class BlockCache:
    """The folder of tokenized blocks of one tokenizer and one set of rendering settings."""

    def __init__(self, cache: Path, meaning: str) -> None:
        self.cache, self.folder = cache, cache / meaning

    def key(self, block: bytes) -> str:
        """The name of the tokenized block of these lines."""
        return str(xxhash.xxh3_128_hexdigest(block))

    def path(self, key: str) -> Path:
        """The path of the block of this name."""
        return self.folder / f"{key}.block"

    def has(self, key: str) -> bool:
        """Whether it is there and undamaged; if so it counts as used now. Reads it once."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                header, start = _header(file.fileno(), path)
                state = xxhash.xxh3_64()
                file.seek(start)
                while chunk := file.read(2**20):
                    state.update(chunk)
            os.utime(path)
        except (OSError, ValueError):
            return False
        return bool(state.hexdigest() == header["xxh3"])

    def write(self, key: str, tokenized: TokenizedBlock, notes: BlockNotes) -> None:
        """Store a block, whole or not at all."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = [(name, np.ascontiguousarray(getattr(tokenized, name))) for name in (*_NAMES, *_APART)]
        with replacing(path) as temporary, temporary.open("xb", buffering=0) as file:
            _write(file, arrays, notes)

    def read(self, key: str) -> BlockColumns:
        """Everything but words and signatures."""
        return BlockColumns.read(self.path(key))

    def drop(self, engine: str) -> None:
        """Remove every block that ``engine`` encoded."""
        for path in self.folder.glob("*.block"):
            with suppress(OSError, ValueError):
                if BlockColumns.read(path).notes.engine == engine:
                    path.unlink()


@dataclass(frozen=True, slots=True, eq=False)
class BlockColumns:
    """A tokenized block without its words and signatures, and where the words are."""

    path: Path
    notes: BlockNotes
    words_at: int
    """Byte of the file where the words begin."""
    columns: dict[str, NDArray[Any]]
    """By the names of ``TokenizedBlock``."""

    @classmethod
    def read(cls, path: Path) -> BlockColumns:
        """From a file that ``BlockCache.write`` made."""
        with path.open("rb") as file:
            header, start = _header(file.fileno(), path)
            specs = header["arrays"]
            data = os.pread(file.fileno(), specs[_APART[0]][2], start)
        columns = {name: _array(data, *specs[name]) for name in _NAMES}
        notes = header["notes"]
        notes["rejected"] = tuple((line, reason) for line, reason in notes["rejected"])
        return cls(path, BlockNotes(**notes), start + specs["words"][2], columns)


def read_block_signatures(path: Path) -> NDArray[np.uint32]:
    """The MinHash signatures of one block: (conversations, K)."""
    with path.open("rb") as file:
        header, start = _header(file.fileno(), path)
        kind, shape, at = header["arrays"]["signatures"]
        data = os.pread(file.fileno(), 4 * int(np.prod(shape)), start + at)
    return _array(data, kind, shape, 0)


def note_shards(job: PackJob, count: int) -> None:
    """Record the number of shards of this job, for the error that names missing blocks."""
    note = _shards_note(job)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(note, f"{count}\n")


def noted_shards(job: PackJob) -> int | None:
    """How many shards the latest shard of this job named; ``None`` before the first."""
    try:
        return int(_shards_note(job).read_text())
    except FileNotFoundError:
        return None


def _shards_note(job: PackJob) -> Path:
    return cache_folder() / "blocks" / f"{job.fingerprint}.shards"


def block_cache_of(job: PackJob, tokenizer_digest: str) -> BlockCache:
    """The cache for the blocks of this job."""
    data = job.data.model_dump(mode="json", include=set(PART_SETTINGS))
    meaning = {"format": PACK_FORMAT, "tokenizer": tokenizer_digest, "data": data}
    return BlockCache(cache_folder() / "blocks", digest_json(meaning))


def trim(cache: Path, own: Iterable[Path]) -> None:
    """Remove blocks until the cache is within its bound; ``own`` are those of the build that ended."""
    limit = limit_bytes()
    mine = set(own)
    lately = time.time() - USED_LATELY_SECONDS
    _remove_leftovers(cache, lately)
    found = []
    for path in cache.glob("*/*.block"):
        with suppress(FileNotFoundError):  # another build trims as well
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= limit:
            return
        if used < lately or path in mine:
            path.unlink(missing_ok=True)
            total -= size


def _remove_leftovers(cache: Path, before: float) -> None:
    """Remove temporary files of writers that were killed: those last written ``before`` a time."""
    for leftover in cache.glob("*/.*.block.*"):
        with suppress(FileNotFoundError):
            if leftover.stat().st_mtime < before:
                leftover.unlink()


def limit_bytes() -> int:
    """``GEMFIT_BLOCKS_GIB`` in bytes."""
    value = os.environ.get("GEMFIT_BLOCKS_GIB", "")
    try:
        gib = float(value) if value else DEFAULT_GIB
        if not gib >= 0:
            raise ValueError
    except ValueError:
        raise UserError(
            f"GEMFIT_BLOCKS_GIB is {value!r}; write a number of GiB, 0 to keep no blocks"
        ) from None
    return int(gib * 2**30)


def _write(file: Any, arrays: list[tuple[str, NDArray[Any]]], notes: BlockNotes) -> None:
    specs, at, state = {}, 0, xxhash.xxh3_64()
    buffers: list[Any] = []
    for name, array in arrays:
        specs[name] = (array.dtype.str, array.shape, at)
        padding = bytes(-array.nbytes % ALIGNMENT)
        for buffer in (array.reshape(-1).view(np.uint8).data, padding):
            state.update(buffer)
            buffers.append(buffer)
        at += array.nbytes + len(padding)
    header = orjson.dumps(
        {
            "arrays": specs,
            "notes": {name: getattr(notes, name) for name in BlockNotes.__slots__},
            "bytes": at,
            "xxh3": state.hexdigest(),
        },
        option=orjson.OPT_NON_STR_KEYS,
    )
    header += b" " * (-(len(header) + 16) % ALIGNMENT)
    for buffer in (MAGIC + len(header).to_bytes(8, "little") + header, *buffers):
        view = memoryview(buffer)
        while view:
            view = view[file.write(view) :]


def _array(data: bytes, kind: str, shape: list[int], at: int) -> NDArray[Any]:
    return np.frombuffer(data, kind, count=int(np.prod(shape)), offset=at).reshape(shape)


def _header(descriptor: int, path: Path) -> tuple[dict[str, Any], int]:
    """The header, and the byte where the arrays begin; ``ValueError`` for a file that broke off."""
    start = os.pread(descriptor, 16, 0)
    if start[:8] != MAGIC:
        raise ValueError(f"{path}: is not a tokenized block")
    size = int.from_bytes(start[8:], "little")
    header = json.loads(os.pread(descriptor, size, 16))
    if os.fstat(descriptor).st_size != 16 + size + header["bytes"]:
        raise ValueError(f"{path}: broke off")
    return header, 16 + size
