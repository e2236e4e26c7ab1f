"""Training conversations that ``data.validation`` holds too, with the places of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import orjson

from gemfit.data.build.conversation_table import ConversationTable
from gemfit.data.column_file import slices
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
        for here in slices(len(copies)):
            places = table.places(copies[here], inputs)
            originals = table.places(selection.original[copies[here]], inputs)
            for place, original in zip(places, originals, strict=True):
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
