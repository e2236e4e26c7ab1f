"""Training conversations that ``data.validation`` holds too, with the places of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from gemfit.data.build.conversation_table import ConversationTable
from gemfit.data.filter.selection import Selection
from gemfit.data.jsonl.message_batch import Ints

OVERLAPS = "also_in_validation.jsonl"
_SHOWN = 3


def write_overlaps(
    path: Path, table: ConversationTable, selection: Selection, copies: Ints, inputs: Sequence[str]
) -> None:
    """JSON lines with the ``place`` of each copy and that ``in_validation``; no file where there is none.

    copies: (copies,), indices of conversations.
    """
    if not len(copies):
        return
    with path.open("wb") as sink:
        for copy in copies.tolist():
            pair = np.array([copy, selection.original[copy]])
            place, original = _places(table, pair, inputs)
            entry = {"place": place, "in_validation": original}
            sink.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))


def overlap_lines(folder: Path) -> Iterator[str]:
    """The first overlaps of a pack, to be printed."""
    path = folder / OVERLAPS
    if not path.is_file():
        return
    with path.open("rb") as stream:
        for entry in map(orjson.loads, islice(stream, _SHOWN)):
            yield f"  {entry['place']} is in validation as {entry['in_validation']}"
        if next(stream, None) is not None:
            yield f"  all of them: {path}"


def _places(
    table: ConversationTable, conversations: NDArray[np.int64], inputs: Sequence[str]
) -> Iterator[str]:
    files = table.inputs(conversations).tolist()
    lines = table.line[conversations].tolist()
    return (f"{inputs[file]}:{line}" for file, line in zip(files, lines, strict=True))
