"""Rendered atoms on disk between the two passes of the builder.

Memory: 17 bytes an atom; the words are in one flat file.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gemfit.data.document import Words
from gemfit.data.runs import Atoms
from gemfit.data.split import Atom


class Spool:
    """The atoms of one split, appended in order, then read in any order."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=2**20)
        self._lengths = array("i")
        self._context = array("i")
        self._linked = array("b")
        self._conversations = array("q")
        self._starts: NDArray[np.int64] = np.zeros(1, np.int64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, atom: Atom, conversation: int) -> None:
        """Add one atom of the conversation with this number."""
        self._file.write(atom.words.tobytes())
        if atom.linked:  # then it has a second form, without context
            self._file.write(atom.body.tobytes())
        self._lengths.append(len(atom.words))
        self._context.append(atom.repeated)
        self._linked.append(atom.linked)
        self._conversations.append(conversation)

    def finish(self) -> Atoms:
        """Make everything appended readable; what the second pass has to know of it."""
        self._file.flush()
        lengths, context = np.array(self._lengths, np.int32), np.array(self._context, np.int32)
        linked = np.array(self._linked, np.bool_)
        sizes = lengths.astype(np.int64) + np.where(linked, lengths - context, 0)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        return Atoms(lengths, context, linked)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def conversations(self) -> NDArray[np.int64]:
        """Number of the conversation of each atom: (atoms,)."""
        return np.array(self._conversations, np.int64)

    def read_piece(self, words: Words, first: int, count: int) -> None:
        """Fill ``words``, as long as the piece, with ``count`` atoms. No page stays mapped."""
        at = self._lengths[first]
        self._read(words[:at], int(self._starts[first]))
        for atom in range(first + 1, first + count):
            body = self._lengths[atom] - self._context[atom]
            self._read(words[at : at + body], int(self._starts[atom]) + self._lengths[atom])
            at += body

    def _read(self, words: Words, start: int) -> None:
        got = os.preadv(self._file.fileno(), [words.data.cast("B")], 4 * start)
        assert got == words.nbytes, "the spool was finished"
