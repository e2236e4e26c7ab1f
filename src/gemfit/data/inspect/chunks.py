"""Chunks of a packed row, and the position of each of their tokens in its conversation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemfit.data.document import IGNORED
from gemfit.data.inspect.pack_files import RowBatch

REPEATED = -1
"""Position of a repeated token."""


@dataclass(frozen=True, slots=True, eq=False)
class RowChunk:
    """A chunk of a conversation in a row. Arrays: (tokens,)."""

    begin: int
    """Position of its first token in the row."""
    document: int
    """Number of the conversation in the pack."""
    start: int
    """Index in the rendered conversation of the first token that is not repeated."""
    repeated: int
    """Repeated tokens: masked context of another chunk."""
    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


def chunks_of(batch: RowBatch, row: int) -> list[RowChunk]:
    """The chunks of the row with index ``row`` in ``batch``, from left to right."""
    return list(_chunks(batch, row))


def positions(chunk: RowChunk, header: tuple[int, int] | None = None) -> NDArray[np.int64]:
    """Index of each token in the rendered conversation, ``REPEATED`` for what is repeated: (tokens,).

    Repeated tokens are in front, except where a chat template writes the system text after the first header
    of the chunk: that header is not repeated. Its labels show it; if it has none, ``header`` is its position
    in the chunk and its length.
    """
    flagged = np.flatnonzero(chunk.trained[: chunk.repeated])
    if len(flagged):
        # It ends at the repeated text, which has no label; a cut may have shortened it.
        header = int(flagged[0]), int(np.argmin(chunk.trained[flagged[0] :]))
    at, count = header or (chunk.repeated, 0)
    places = np.full(len(chunk), REPEATED, np.int64)
    places[at : at + count] = chunk.start + np.arange(count)
    rest = chunk.repeated + count
    places[rest:] = chunk.start + count + np.arange(len(chunk) - rest)
    return places


def _chunks(batch: RowBatch, row: int) -> Iterator[RowChunk]:
    begin = 0
    for index in range(int(batch.ends[row]), int(batch.ends[row + 1])):
        stop = begin + int(batch.lengths[index])
        yield RowChunk(
            begin=begin,
            document=int(batch.document[index]),
            start=int(batch.starts[index]),
            repeated=int(batch.repeated[index]),
            ids=batch.input_ids[row, begin:stop],
            trained=batch.labels[row, begin:stop] != IGNORED,
        )
        begin = stop
