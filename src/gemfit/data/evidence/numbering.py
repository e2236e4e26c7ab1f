"""Which conversation is which document of the pack, and whether the numbers can be right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.evidence.packfiles import SIDES, Pack


class Numbering(NamedTuple):
    """The conversations that are packed, by number."""

    lines: NDArray[np.int64]
    """(documents,): line in the table of conversations."""


def number_conversations(pack: Pack) -> tuple[Numbering, list[str]]:
    """Order the packed conversations by number; problems where that cannot be."""
    talks = pack.conversations
    kept = np.flatnonzero(talks.fate == "kept")
    lines = kept[np.argsort(talks.number[kept], kind="stable")]
    return Numbering(lines), list(_problems(pack, lines))


def _problems(pack: Pack, lines: NDArray[np.int64]) -> Iterator[str]:
    talks = pack.conversations
    wrong = np.flatnonzero(talks.number[lines] != np.arange(len(lines)))
    if len(wrong):
        yield f"{pack.place(int(lines[wrong[0]]))}: has the number {talks.number[lines[wrong[0]]]:,}, not {wrong[0]:,}"
        return
    digests = talks.digests[lines]
    same = np.flatnonzero(digests[1:] <= digests[:-1])
    if len(same):
        yield f"{pack.place(int(lines[same[0] + 1]))}: is out of order: its digest is not behind that of the one before"
    few = np.flatnonzero(talks.copies[lines] < 1)
    if len(few):
        yield f"{pack.place(int(lines[few[0]]))}: is kept {talks.copies[lines[few[0]]]} times"
    astray = np.flatnonzero(~np.isin(talks.split[lines], range(len(SIDES))))
    if len(astray):
        yield f"{pack.place(int(lines[astray[0]]))}: is kept, but on no side of the split"
    copies = np.flatnonzero(talks.fate == "duplicate")
    of = talks.number[copies]
    known = (of >= -1) & (of < len(lines))
    if not known.all():
        yield f"{pack.place(int(copies[~known][0]))}: copies number {of[~known][0]:,}, which is in no row"
        return
    copies, of = copies[of >= 0], of[of >= 0]
    unlike = np.flatnonzero(talks.digests[copies] != talks.digests[lines[of]])
    if len(unlike):
        yield f"{pack.place(int(copies[unlike[0]]))}: is no copy of {pack.place(int(lines[of[unlike[0]]]))}"
