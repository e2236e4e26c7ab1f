"""Which conversation is which document of the pack, and whether the numbers can be right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.inspect.pack_files import SIDES, Pack


class DocumentLines(NamedTuple):
    """The conversations that are packed, by number."""

    lines: NDArray[np.int32]
    """(documents,): line in the table of conversations."""


def number_conversations(pack: Pack) -> tuple[DocumentLines, list[str]]:
    """Order the packed conversations by number; problems where that cannot be."""
    talks = pack.conversations
    kept = np.flatnonzero(talks.has_disposition("kept")).astype(np.int32)
    numbers = talks.number
    lines = kept[np.argsort(numbers[kept], kind="stable")]
    wrong = np.flatnonzero(numbers[lines] != np.arange(len(lines)))
    if len(wrong):
        line = int(lines[wrong[0]])
        what = f"has the number {talks.number[line]:,}, where {wrong[0]:,} is due"
        return DocumentLines(lines), [f"{pack.place(line)}: {what}"]
    return DocumentLines(lines), [*_unlikely(pack, lines), *_no_copies(pack, lines)]


def _unlikely(pack: Pack, lines: NDArray[np.int32]) -> Iterator[str]:
    """Conversations that cannot be packed as the table says."""
    talks = pack.conversations
    high, low = talks.digests[lines].T
    unsorted = np.zeros(len(lines), np.bool_)
    unsorted[1:] = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] <= low[:-1]))
    for what, wrong in (
        ("its digest is not behind that of the conversation with the number before", unsorted),
        ("is kept, but not once or more", talks.copies[lines] < 1),
        ("is kept, but on no side of the split", ~np.isin(talks.split[lines], range(len(SIDES)))),
    ):
        if wrong.any():
            yield f"{pack.place(int(lines[wrong][0]))}: {what}"


def _no_copies(pack: Pack, lines: NDArray[np.int32]) -> Iterator[str]:
    """Duplicates that are none of the conversation whose number they have."""
    talks = pack.conversations
    copies = np.flatnonzero(talks.has_disposition("duplicate") & (talks.number >= 0))
    original = talks.number[copies]
    if (unknown := original >= len(lines)).any():
        yield f"{pack.place(int(copies[unknown][0]))}: copies {original[unknown][0]:,}, which is in no row"
        return
    digests = talks.digests
    unlike = (digests[copies] != digests[lines[original]]).any(axis=1)
    if unlike.any():
        of = pack.place(int(lines[original[unlike][0]]))
        yield f"{pack.place(int(copies[unlike][0]))}: is called a copy of {of}, and is none"
