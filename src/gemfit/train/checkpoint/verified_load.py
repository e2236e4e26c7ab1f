"""Load a checkpoint and verify it in one pass: one rank reads each file, once, and sends what others hold.

Files are spread over the ranks; each is digested while it is read, and the stored pieces go to the ranks
whose shards overlap them. A byte of a checkpoint is read once, whatever strategy and number of ranks have
saved it; under the layout that saved, every rank reads its own files and nothing is sent. All ranks go
through the files in rounds of at most ``ROUND_BYTES`` (or one stored piece), and meet after each: none
waits for another's disk for longer than that takes.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
import xxhash
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from gemfit.checkpoint.integrity import content_damage
from gemfit.schemas.manifest import FileDigest
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.safe_reader import SafeReader
from gemfit.train.collective import COLLECTIVE_TIMEOUT, on_every_rank, on_first_rank, rank, world_size

DATA_SUFFIX = ".distcp"
"""Of the files that hold tensors, as torch names them."""
READ_BYTES = 2**24
UNEVEN = 1.1
ROUND_BYTES = 2**28
"""Bytes of a file that a rank reads between two meetings; fewer where ranks hold copies, which are sent."""

Span = tuple[int, int]
"""First and last position, exclusive, in a flattened tensor."""
Spans = dict[str, Span]
"""What a rank holds of each tensor."""


class DamageError(Exception):
    """A file is not what the manifest says; the message says how."""


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """A contiguous range of a flattened tensor, and where it is stored."""

    name: str
    span: Span
    file: str
    offset: int
    length: int
    """Bytes in the file."""

    def overlap(self, spans: Spans) -> Span | None:
        """What of it ``spans`` has, in positions of the tensor."""
        start, stop = spans.get(self.name, (0, 0))
        start, stop = max(start, self.span[0]), min(stop, self.span[1])
        return (start, stop) if start < stop else None


def load(
    shards: dict[str, FlatShard],
    folder: Path,
    files: Iterable[FileDigest],
    after_round: Callable[[], None] = lambda: None,
) -> str | None:
    """Fill ``shards`` in place; returns the first damage found, after which they hold anything. Collective.

    Raises ``ValueError`` where a name or a shape is not what was saved.
    """
    digests = {file.path: file for file in files}
    small = [file for path, file in digests.items() if not path.endswith(DATA_SUFFIX)]
    damage = on_first_rank(lambda: next(filter(None, (content_damage(folder, file) for file in small)), None))
    if damage is not None:
        return damage
    parsed: list[dict[str, list[StoredPiece]]] = []
    on_every_rank(lambda: parsed.append(_stored(SafeReader(folder).read_metadata(), shards)))
    spans = {name: (shard.start, shard.start + shard.flat.numel()) for name, shard in shards.items()}
    held = on_every_rank(lambda: spans)
    group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if dist.is_initialized() else None
    exchange = _Exchange(shards, held, parsed[0], folder, digests, group)
    try:
        return exchange.run(after_round)
    finally:
        exchange.close()
        if group is not None:
            dist.destroy_process_group(group)


def _stored(metadata: Metadata, shards: dict[str, FlatShard]) -> dict[str, list[StoredPiece]]:
    """All pieces by file, in the order in which they are stored."""
    entries = metadata.state_dict_metadata
    sizes = {
        (name, tuple(chunk.offsets)): chunk.sizes
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
        for chunk in entry.chunks
    }
    for name, shard in shards.items():
        if (saved := getattr(entries.get(name), "size", None)) != shard.shape:
            raise ValueError(f"{name} has the shape {tuple(shard.shape)}, and the checkpoint holds {saved}")
    found: dict[str, list[StoredPiece]] = defaultdict(list)
    for index, info in (metadata.storage_data or {}).items():
        offsets, entry = tuple(index.offset or ()), entries[index.fqn]
        start = _flat_position(offsets, tuple(entry.size)) if isinstance(entry, TensorStorageMetadata) else 0
        span = (start, start + math.prod(sizes[index.fqn, offsets]))
        found[info.relative_path].append(
            StoredPiece(index.fqn, span, info.relative_path, info.offset, info.length)
        )
    return {file: sorted(pieces, key=lambda piece: piece.offset) for file, pieces in sorted(found.items())}


def _flat_position(offsets: tuple[int, ...], shape: tuple[int, ...]) -> int:
    position = 0
    for offset, size in zip(offsets, shape, strict=True):
        position = position * size + offset
    return position


def assign(sizes: dict[str, int], needed: list[dict[str, int]]) -> list[list[str]]:
    """Files for each rank to read: those that it needs most, up to `UNEVEN` times an equal share.

    ``sizes`` are bytes by file, ``needed`` for each rank how many of them it holds.
    """
    load, files = [0] * len(needed), [list[str]() for _ in needed]
    limit = UNEVEN * max(sum(sizes.values()) / len(needed), *sizes.values(), 0)
    for file in sorted(sizes, key=lambda file: (-sizes[file], file)):

        def worse(number: int, file: str = file) -> tuple[bool, int, int]:
            over = load[number] + sizes[file] > limit
            return over, 0 if over else -needed[number].get(file, 0), load[number]

        reader = min(range(len(needed)), key=worse)
        load[reader] += sizes[file]
        files[reader].append(file)
    return files


def rounds(pieces: Iterable[StoredPiece], limit: int) -> list[list[StoredPiece]]:
    """Consecutive pieces of at most ``limit`` bytes together, or one that is larger."""
    found: list[list[StoredPiece]] = []
    size = limit
    for piece in pieces:
        if size + piece.length > limit:
            found.append([])
            size = 0
        found[-1].append(piece)
        size += piece.length
    return found


class _Exchange:
    """The rounds of one load, which every rank works out for itself: nothing is sent but pieces."""

    def __init__(
        self,
        shards: dict[str, FlatShard],
        held: list[Spans],
        stored: dict[str, list[StoredPiece]],
        folder: Path,
        digests: dict[str, FileDigest],
        group: Any,
    ) -> None:
        self._shards, self._held, self._group = shards, held, group
        own = held[rank()]
        needed = {
            file: sum(stop - start for piece in pieces for start, stop in [piece.overlap(own) or (0, 0)])
            for file, pieces in stored.items()
        }
        files = {path: entry.bytes for path, entry in digests.items() if path.endswith(DATA_SUFFIX)}
        readers = assign(files, on_every_rank(lambda: needed))
        elements = sum(stop - start for spans in held for start, stop in spans.values())
        copies = max(round(elements / max(sum(_elements(pieces) for pieces in stored.values()), 1)), 1)
        self._rounds = [
            rounds((piece for file in files for piece in stored.get(file, [])), max(ROUND_BYTES // copies, 1))
            for files in readers
        ]
        self._reader = _FileReader(folder, [digests[file] for file in readers[rank()]])

    def run(self, after_round: Callable[[], None]) -> str | None:
        """Read, send and receive round by round, until all files are read or one is damaged."""
        for number in range(max(map(len, self._rounds), default=0)):
            read: dict[StoredPiece, torch.Tensor] = {}
            if (damage := self._meet(lambda: self._read(number, read))) is not None:  # noqa: B023
                return damage
            self._send_and_fill(number, read)
            after_round()
        return self._meet(self._reader.finish)

    def close(self) -> None:
        self._reader.close()

    def _meet(self, action: Callable[[], None]) -> str | None:
        """Run ``action`` on every rank; the first damage that one has found."""

        def damage() -> str | None:
            try:
                action()
            except DamageError as error:
                return str(error)
            return None

        return next(filter(None, on_every_rank(damage, self._group)), None)

    def _of_round(self, reader: int, number: int) -> list[StoredPiece]:
        mine = self._rounds[reader]
        return mine[number] if number < len(mine) else []

    def _read(self, number: int, read: dict[StoredPiece, torch.Tensor]) -> None:
        for piece in self._of_round(rank(), number):
            read[piece] = self._reader.read(piece)

    def _send_and_fill(self, number: int, read: dict[StoredPiece, torch.Tensor]) -> None:
        waiting, received = [], []
        for other in range(world_size()):
            if other == rank():
                continue
            for piece in self._of_round(other, number):
                if (span := piece.overlap(self._held[rank()])) is not None:
                    buffer = torch.empty(span[1] - span[0], dtype=self._shards[piece.name].flat.dtype)
                    waiting.append(dist.irecv(buffer, other, group=self._group))
                    received.append((piece.name, span, buffer))
            for piece, tensor in read.items():
                if (span := piece.overlap(self._held[other])) is not None:
                    waiting.append(dist.isend(_cut(tensor, piece, span), other, group=self._group))
        for piece, tensor in read.items():
            if (span := piece.overlap(self._held[rank()])) is not None:
                self._fill(piece.name, span, _cut(tensor, piece, span))
        for work in waiting:
            if work is not None:
                work.wait()
        for name, span, buffer in received:
            self._fill(name, span, buffer)

    def _fill(self, name: str, span: Span, values: torch.Tensor) -> None:
        shard = self._shards[name]
        shard.flat[span[0] - shard.start : span[1] - shard.start].copy_(values)


def _elements(pieces: Iterable[StoredPiece]) -> int:
    return sum(piece.span[1] - piece.span[0] for piece in pieces)


def _cut(tensor: torch.Tensor, piece: StoredPiece, span: Span) -> torch.Tensor:
    return tensor[span[0] - piece.span[0] : span[1] - piece.span[0]]


class _FileReader:
    """Reads files one after the other, each from its beginning to its end, and digests them."""

    def __init__(self, folder: Path, files: list[FileDigest]) -> None:
        self._folder, self._left = folder, files
        self._file: FileDigest | None = None
        self._stream: IO[bytes] = io.BytesIO()
        self._digest = xxhash.xxh3_128()

    def read(self, piece: StoredPiece) -> torch.Tensor:
        """The values of ``piece``, flat; pieces come in the order in which they are stored."""
        while self._file is None or self._file.path != piece.file:
            self._next()
        self._take(piece.offset - self._stream.tell())
        content = self._take(piece.length)
        try:
            values: torch.Tensor = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # whatever a changed byte makes of it
            raise DamageError(f"{piece.file} has changed since it was written") from None
        if values.numel() != piece.span[1] - piece.span[0]:
            raise DamageError(f"{piece.file} has changed since it was written")
        return values.reshape(-1)

    def finish(self) -> None:
        """Read what is left; raises ``DamageError`` where a file is not what was written."""
        while self._left or self._file is not None:
            self._next()

    def close(self) -> None:
        self._stream.close()

    def _next(self) -> None:
        """Compare the file that was read, and open the next one."""
        while self._take(READ_BYTES):
            pass
        self._stream.close()
        if self._file is not None and self._digest.hexdigest() != self._file.xxh3:
            raise DamageError(f"{self._file.path} has changed since it was written")
        self._file = self._left.pop(0) if self._left else None
        self._digest = xxhash.xxh3_128()
        if self._file is not None:
            try:
                self._stream = (self._folder / self._file.path).open("rb", buffering=0)
            except FileNotFoundError:  # the run may have retired the checkpoint meanwhile
                raise DamageError(f"{self._file.path} is missing") from None
        else:
            self._stream = io.BytesIO()

    def _take(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._digest.update(content)
        return content
