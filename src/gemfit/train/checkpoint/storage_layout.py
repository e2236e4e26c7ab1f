"""Where a checkpoint stores the pieces of its tensors, and which rank reads which of its files. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from gemfit.train.checkpoint.dcp_planner import FlatShard

UNEVEN = 1.1
"""Most that a rank reads, as a multiple of an equal share."""

Span = tuple[int, int]
"""First and last position, exclusive, in a flattened tensor."""
Spans = dict[str, Span]
"""What a rank holds of each tensor."""


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """A contiguous range of a flattened tensor, and where it is stored."""

    name: str
    span: Span
    file: str
    offset: int
    length: int
    """Bytes in the file."""
    dtype: torch.dtype
    """As stored; a rank may hold the tensor in another."""

    def overlap(self, spans: Spans) -> Span | None:
        """What of it ``spans`` has, in positions of the tensor."""
        start, stop = spans.get(self.name, (0, 0))
        start, stop = max(start, self.span[0]), min(stop, self.span[1])
        return (start, stop) if start < stop else None


def stored_pieces(metadata: Metadata, shards: dict[str, FlatShard]) -> dict[str, list[StoredPiece]]:
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
        offsets, entry, file = tuple(index.offset or ()), entries[index.fqn], info.relative_path
        assert isinstance(entry, TensorStorageMetadata), "checked when the metadata was read"
        start = _flat_position(offsets, tuple(entry.size))
        span = (start, start + math.prod(sizes[index.fqn, offsets]))
        found[file].append(
            StoredPiece(index.fqn, span, file, info.offset, info.length, entry.properties.dtype)
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
