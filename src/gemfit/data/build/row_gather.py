"""Fetch the words of chunks from the blocks on disk and lay them out as rows: one read per fragment.

It reads by ``pread``, so pages of the blocks do not count as memory of the process. Files stay open
as long as there are few of them.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemfit.data.column_file import pread
from gemfit.data.compiled import njit
from gemfit.data.document import IGNORED, TRAINED
from gemfit.data.jsonl.message_batch import Ints

FRAGMENT = np.dtype(
    [
        ("word", np.uint32),
        ("block", np.int32),
        ("length", np.int32),
        ("context", np.int32),
        ("start", np.int32),
        ("continues", np.bool_),
        ("mid_message", np.bool_),
    ],
    align=True,
)
"""A fragment: the number of its file, the word (4 bytes) of that where it begins, its length with context,
and the rest as in ``TokenizedBlock``. All in one place, since all is looked up at once."""


class RowChunks(NamedTuple):
    """Chunks of some rows, in order. Each array: (chunks,), but the last."""

    first: Ints
    """The fragment that it begins with."""
    num_fragments: Ints
    lengths: Ints
    row_ends: NDArray[np.int64]
    """(rows + 1,): where the chunks of each row begin and end."""


class RowArrays(NamedTuple):
    """Finished rows."""

    input_ids: NDArray[np.int32]
    """(rows, seq_len)"""
    labels: NDArray[np.int32]
    """(rows, seq_len)"""
    tokens: Ints
    """(rows,)"""
    trained: Ints
    """(rows,)"""


@dataclass(slots=True)
class BlockFiles:
    """Descriptors of the files of blocks, opened when they are needed."""

    paths: Sequence[Path]
    most: int
    """How many may be open at once."""
    descriptors: NDArray[np.int32]
    """(blocks,): -1 where closed."""

    @classmethod
    def of(cls, paths: Sequence[Path]) -> BlockFiles:
        """For these paths, by number."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return cls(paths, max(16, limit // 2), np.full(len(paths), -1, np.int32))

    def open(self, numbers: Sequence[int]) -> None:
        """Open these, at most ``most``; others are closed where it takes their place."""
        wanted = [number for number in numbers if self.descriptors[number] < 0]
        if np.count_nonzero(self.descriptors >= 0) + len(wanted) > self.most:
            self.close()
            wanted = list(numbers)
        for number in wanted:
            self.descriptors[number] = os.open(self.paths[number], os.O_RDONLY)

    def close(self) -> None:
        """Close all."""
        for descriptor in self.descriptors[self.descriptors >= 0].tolist():
            os.close(descriptor)
        self.descriptors[:] = -1


class RowBuffers(NamedTuple):
    """Buffers of a batch of rows, reused: fresh pages for each batch would cost as much as the copy."""

    words: NDArray[np.uint32]
    """(rows, seq_len)"""
    labels: NDArray[np.int32]
    """(rows, seq_len)"""

    @classmethod
    def of(cls, rows: int, seq_len: int) -> RowBuffers:
        """Buffers for this many rows."""
        return cls(np.empty((rows, seq_len), np.uint32), np.empty((rows, seq_len), np.int32))


def gather(
    chunks: RowChunks, fragments: NDArray[np.void], files: BlockFiles, buffers: RowBuffers, *, pad: int
) -> RowArrays:
    """The rows of these chunks, valid until ``buffers`` is reused. fragments: all, of type ``FRAGMENT``."""
    rows = len(chunks.row_ends) - 1
    words, labels = buffers.words[:rows], buffers.labels[:rows]
    blocks = fragments["block"][chunks.first]  # a chunk is one conversation's, so all of it is in one block
    needed = np.unique(blocks).tolist()
    for start in range(0, len(needed), files.most):
        group = needed[start : start + files.most]
        files.open(group)
        chosen = np.isin(blocks, group) if len(group) < len(needed) else np.ones(len(blocks), np.bool_)
        failed = _fill(words, *chunks, chosen, fragments.view(np.ndarray), files.descriptors)
        if failed >= 0:
            raise OSError(f"{files.paths[blocks[failed]]}: could not be read to its end")
    return RowArrays(
        words.view(np.int32), labels, *_finish(words, labels, chunks.row_ends, chunks.lengths, pad)
    )


@njit
def _fill(words, first, num_fragments, lengths, row_ends, chosen, fragments, descriptors):  # type: ignore[no-untyped-def]
    """Read every chosen chunk to its place; the number of a chunk that could not be read, or -1."""
    for row in range(len(row_ends) - 1):
        place = 0
        for chunk in range(row_ends[row], row_ends[row + 1]):
            target = place
            place += lengths[chunk]
            if not chosen[chunk]:
                continue
            for number in range(first[chunk], first[chunk] + num_fragments[chunk]):
                fragment = fragments[number]
                skipped = 0 if number == first[chunk] else fragment["length"]
                size = (
                    fragment["length"] if number == first[chunk] else fragment["length"] - fragment["context"]
                )
                # The pointer is that of the row, moved by hand: a view for each read costs more than it.
                pointer = np.uintp(words[row].ctypes.data + 4 * np.int64(target))
                offset = 4 * (np.int64(fragment["word"]) + skipped)
                descriptor = descriptors[fragment["block"]]
                if pread(descriptor, pointer, np.uint64(4 * size), offset) != 4 * size:
                    return chunk
                target += size
    return -1


@njit
def _finish(words, labels, row_ends, lengths, pad):  # type: ignore[no-untyped-def]
    """Tokens and trained tokens of rows; ``words`` become ids in place, ``labels`` are written."""
    rows = len(words)
    tokens = np.zeros(rows, np.int32)
    trained = np.zeros(rows, np.int32)
    for row in range(rows):
        for chunk in range(row_ends[row], row_ends[row + 1]):
            tokens[row] += lengths[chunk]
        count = np.int32(0)
        for column in range(tokens[row]):
            word = words[row, column]
            ident = word & ~TRAINED
            flagged = word != ident
            labels[row, column] = np.int32(ident) if flagged else np.int32(IGNORED)
            count += np.int32(flagged)
            words[row, column] = ident
        words[row, tokens[row] :] = pad
        labels[row, tokens[row] :] = IGNORED
        trained[row] = count
    return tokens, trained
