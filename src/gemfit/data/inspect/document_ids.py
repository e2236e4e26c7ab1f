"""Document numbers of a pack: the conversation of each, and checks of the numbering."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.inspect.pack_files import SPLIT_NAMES, Pack


class DocumentLines(NamedTuple):
    """The packed conversations, by document number."""

    lines: NDArray[np.int32]
    """(documents,): line in the table of conversations."""


def document_lines(pack: Pack) -> tuple[DocumentLines, list[str]]:
    """The packed conversations ordered by number, and problems of the numbering."""
    conversations = pack.conversations
    kept = np.flatnonzero(conversations.has_disposition("kept")).astype(np.int32)
    numbers = conversations.number
    lines = kept[np.argsort(numbers[kept], kind="stable")]
    wrong = np.flatnonzero(numbers[lines] != np.arange(len(lines)))
    if len(wrong):
        line = int(lines[wrong[0]])
        what = f"has the number {conversations.number[line]:,}, where {wrong[0]:,} is due"
        return DocumentLines(lines), [f"{pack.place(line)}: {what}"]
    return DocumentLines(lines), [*_invalid_conversations(pack, lines), *_invalid_duplicates(pack, lines)]


def _invalid_conversations(pack: Pack, lines: NDArray[np.int32]) -> Iterator[str]:
    """Packed conversations with impossible values in the table."""
    conversations = pack.conversations
    high, low = conversations.digests[lines].T
    unsorted = np.zeros(len(lines), np.bool_)
    unsorted[1:] = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] <= low[:-1]))
    for what, wrong in (
        ("its digest does not follow that of the conversation with the number before", unsorted),
        ("is kept, but not once or more", conversations.copies[lines] < 1),
        ("is kept, but in no split", ~np.isin(conversations.split[lines], range(len(SPLIT_NAMES)))),
    ):
        if wrong.any():
            yield f"{pack.place(int(lines[wrong][0]))}: {what}"


def _invalid_duplicates(pack: Pack, lines: NDArray[np.int32]) -> Iterator[str]:
    """Duplicates whose original is missing or differs."""
    conversations = pack.conversations
    copies = np.flatnonzero(conversations.has_disposition("duplicate") & (conversations.number >= 0))
    original = conversations.number[copies]
    if (unknown := original >= len(lines)).any():
        yield f"{pack.place(int(copies[unknown][0]))}: copies {original[unknown][0]:,}, which is in no row"
        return
    digests = conversations.digests
    unlike = (digests[copies] != digests[lines[original]]).any(axis=1)
    if unlike.any():
        of = pack.place(int(lines[original[unlike][0]]))
        yield f"{pack.place(int(copies[unlike][0]))}: is marked as a duplicate of {of}, but differs"
