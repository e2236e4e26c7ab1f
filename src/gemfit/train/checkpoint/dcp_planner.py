"""DCP planners for flat shards: a range of a flattened parameter as boxes of its real shape.

ZeRO cuts flattened parameters anywhere; torch.distributed.checkpoint (DCP) stores boxes (offsets and
sizes). A range of a matrix is at most three boxes, so each rank writes and reads exactly what it holds,
with no communication, in a format that every other layout can read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


@dataclass(frozen=True, slots=True)
class TensorBox:
    """A rectangular block of a tensor, contiguous in memory."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int
    """Flat position of its first element in the whole tensor."""

    @property
    def numel(self) -> int:
        return math.prod(self.sizes)


def boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[TensorBox]:
    """Cover the flat range ``[start, stop)`` of a tensor of ``shape``, in order and without overlap."""
    if start >= stop:
        return
    if len(shape) <= 1:
        yield TensorBox((start,) if shape else (), (stop - start,) if shape else (), start)
        return
    inner = math.prod(shape[1:])
    first, last = -(-start // inner), stop // inner
    if first > last:  # within one row
        yield from _row_boxes(shape, last, start - last * inner, stop - last * inner)
        return
    yield from _row_boxes(shape, first - 1, start - (first - 1) * inner, inner) if start % inner else ()
    if first < last:
        zeros = (0,) * (len(shape) - 1)
        yield TensorBox((first, *zeros), (last - first, *shape[1:]), first * inner)
    yield from _row_boxes(shape, last, 0, stop % inner)


def _row_boxes(shape: tuple[int, ...], row: int, start: int, stop: int) -> Iterator[TensorBox]:
    inner = math.prod(shape[1:])
    for box in boxes(shape[1:], start, stop):
        yield TensorBox((row, *box.offsets), (1, *box.sizes), row * inner + box.start)


@dataclass(frozen=True, slots=True)
class FlatShard:
    """A contiguous flat range of a tensor, as one rank holds it: ``flat`` begins at element ``start``."""

    flat: torch.Tensor
    start: int
    shape: torch.Size

    def size(self) -> torch.Size:
        """Shape of the whole tensor, as torch.distributed.checkpoint asks for it."""
        return self.shape

    def boxes(self) -> Iterator[TensorBox]:
        return boxes(tuple(self.shape), self.start, self.start + self.flat.numel())

    def view(self, index: MetadataIndex) -> torch.Tensor:
        """The memory of the box at ``index``, in its own shape."""
        box = next(box for box in self.boxes() if box.offsets == tuple(index.offset or ()))
        return self.flat.narrow(0, box.start - self.start, box.numel).view(box.sizes)

    def __create_write_items__(self, fqn: str, shard: object) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self.flat)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.shape),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes)) for box in self.boxes()]


class ShardSavePlanner(DefaultSavePlanner):
    """The default planner, extended to the boxes of a ``FlatShard``."""

    def lookup_object(self, index: MetadataIndex) -> Any:
        found = self.state_dict[index.fqn]
        return found.view(index) if isinstance(found, FlatShard) else super().lookup_object(index)


class ShardLoadPlanner(DefaultLoadPlanner):
    """The default planner, which also fills the boxes of a ``FlatShard``."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        # The default would rebuild the dictionary, and drop every value of an unfamiliar type.
        self.state_dict = self.original_state_dict = state_dict
        self.metadata = metadata
        self.is_coordinator = is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        found = self.state_dict[index.fqn]
        return found.view(index) if isinstance(found, FlatShard) else super().lookup_tensor(index)
