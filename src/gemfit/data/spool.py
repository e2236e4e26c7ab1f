"""Rendered pieces on disk between the two passes of the builder.

Memory: 12 bytes a piece (length and conversation); the words are in one flat file.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gemfit.data.document import Words


class Spool:
    """The pieces of one split, appended in order, then read in any order."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=2**20)
        self._lengths = array("i")
        self._conversations = array("q")
        self._starts: NDArray[np.int64] = np.zeros(1, np.int64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, piece: Words, conversation: int) -> None:
        """Add one piece of the conversation with this number."""
        self._file.write(piece.tobytes())
        self._lengths.append(len(piece))
        self._conversations.append(conversation)

    def finish(self) -> None:
        """Make everything appended readable."""
        self._file.flush()
        self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each piece: (pieces,)."""
        return np.array(self._lengths, np.int32)

    @property
    def conversations(self) -> NDArray[np.int64]:
        """Number of the conversation of each piece: (pieces,)."""
        return np.array(self._conversations, np.int64)

    def read_into(self, words: Words, piece: int) -> None:
        """Fill ``words``, as long as the piece, from the file. No page stays mapped."""
        got = os.preadv(self._file.fileno(), [words.data.cast("B")], int(self._starts[piece]) * 4)
        assert got == words.nbytes, "the spool was finished"
