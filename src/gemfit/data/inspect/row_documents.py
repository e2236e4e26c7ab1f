"""Conversations of a packed row, with the files and lines that they come from."""

from __future__ import annotations

from collections.abc import Iterable

from gemfit.data.inspect.chunks import RowChunk, chunks_of
from gemfit.data.inspect.document_ids import document_lines
from gemfit.data.inspect.pack_files import Pack


def chunks_of_row(pack: Pack, row: int) -> list[RowChunk]:
    """The chunks of row number ``row`` of the training split, from left to right."""
    batch = next(pack.batches("train", range(row, row + 1)))
    return chunks_of(batch, row - batch.first)


def places_of_rows(pack: Pack, rows: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """By row of the training split: ``file:line`` of each conversation in it, from left to right."""
    documents, _ = document_lines(pack)
    return {
        row: tuple(
            dict.fromkeys(
                pack.place(int(documents.lines[chunk.document])) for chunk in chunks_of_row(pack, row)
            )
        )
        for row in rows
    }
