"""Conversation table: the columns of all blocks, joined in input order, from which rows are planned.

Columns are appended to files as the blocks come, and memory-mapped when all are there. Disk: 70 bytes per
conversation, 24 per fragment, and 350 per conversation for MinHash signatures and LSH bands where
near-duplicates are searched. Memory: a path per block, and the mapped pages in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.build.block_cache import BlockCache, BlockColumns, read_block_signatures
from gemfit.data.build.map_blocks import MappedBlock
from gemfit.data.build.row_gather import FRAGMENT
from gemfit.data.column_file import ColumnFile, release_pages, slices
from gemfit.data.dedup.minhash import NUM_HASHES
from gemfit.data.dedup.signatures import Signatures
from gemfit.data.jsonl.blocks import line_place
from gemfit.data.jsonl.line_settings import ROLES
from gemfit.data.jsonl.message_batch import Ints
from gemfit.errors import UserError
from gemfit.schemas.recipe_data import DataRecipe

_COPIED = {
    "digests": (np.uint64, 2),
    "normalized_hashes": (np.uint64, None),
    "tokens": (np.int32, None),
    "trained": (np.int32, None),
    "role_tokens": (np.int32, len(ROLES)),
    "truncated": (np.int32, None),
    "dropped": (np.int32, None),
    "untrained": (np.int32, None),
}
MAX_FRAGMENTS = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConversationTable:
    """All valid conversations in input order, as memory-mapped columns. Shapes in brackets."""

    line: NDArray[np.int64]
    """(conversations,): line of its input, from 1."""
    digests: NDArray[np.uint64]
    """(conversations, 2)"""
    normalized_hashes: NDArray[np.uint64]
    tokens: Ints
    trained: Ints
    role_tokens: Ints
    """(conversations, roles)"""
    truncated: Ints
    dropped: Ints
    untrained: Ints

    fragment_ends: Ints
    """(conversations,): end of each one's fragments, where those of the next begin."""
    fragments: NDArray[np.void]
    """(fragments,) of type ``FRAGMENT``"""
    signatures: Signatures

    block_ends: NDArray[np.int64]
    """(blocks,): where the conversations of each block end."""
    block_inputs: Ints
    """(blocks,): index into the inputs."""
    block_in_array: NDArray[np.bool_]
    """(blocks,): whether the lines of each block are elements of a JSON array."""
    paths: list[Path]
    """Files of the blocks, by number."""

    def __len__(self) -> int:
        return len(self.tokens)

    def inputs(self, conversations: NDArray[Any]) -> Ints:
        """The input of each of these conversations, as an index: (conversations,)."""
        return self.block_inputs[self._blocks(conversations)]

    def array_inputs(self) -> frozenset[int]:
        """Inputs whose lines are elements of a JSON array, as indices."""
        return frozenset(self.block_inputs[self.block_in_array].tolist())

    def places(self, conversations: NDArray[Any], inputs: Sequence[str]) -> list[str]:
        """Where each of these conversations is. inputs: the path of each input."""
        blocks = self._blocks(conversations)
        columns = self.block_inputs[blocks], self.line[conversations], self.block_in_array[blocks]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [line_place(inputs[input], line, in_array=in_array) for input, line, in_array in rows]

    def _blocks(self, conversations: NDArray[Any]) -> NDArray[np.intp]:
        return np.searchsorted(self.block_ends, conversations, "right")

    def slices(self) -> Iterator[slice]:
        """All conversations in slices, whose pages are released afterwards."""
        for here in slices(len(self)):
            yield here
            self.release_pages()

    def release_pages(self) -> None:
        """Release all mapped pages (``madvise``)."""
        release_pages(self.line, self.tokens, self.trained, self.role_tokens, self.truncated, self.untrained)
        release_pages(self.digests, self.normalized_hashes, self.dropped, self.fragment_ends, self.fragments)


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """Counts of lines, rejected lines, PII and engines of a build."""

    lines: int
    blank: int
    rejected: int
    untrained: int
    """Lines that their own `weight` or `train` keeps out of the training."""
    empty_messages: int
    """Of valid lines, those kept out of the training later included."""
    forms: dict[str, int]
    """Valid lines by form, without `messages`."""
    pii: dict[str, int]
    engines: tuple[str, ...]
    rejecting: tuple[tuple[Path, MappedBlock, int], ...]
    """Blocks with rejected lines: file, block, and lines of its input before it."""

    def rejections(self) -> Iterator[tuple[MappedBlock, int, str]]:
        """Block, line of the input and reason of every rejected line, read from the blocks."""
        for path, block, before in self.rejecting:
            for line, reason in BlockColumns.read(path).notes.rejected:
                yield block, before + line, reason


class Collector:
    """Builds the conversation table from tokenized blocks, added in input order."""

    def __init__(self, store: BlockCache, data: DataRecipe) -> None:
        self._store = store
        folder = store.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._columns = {name: ColumnFile(folder, *kind) for name, kind in _COPIED.items()}
        self._lines = ColumnFile(folder, np.int64)
        self._fragment_ends = ColumnFile(folder, np.int32)
        self._fragments = ColumnFile(folder, FRAGMENT)
        places = NUM_HASHES.get(data.near_duplicates, 0)
        self._signatures = Signatures(places, data.near_duplicate_threshold, folder)
        self._block_ends, self._paths = list[int](), list[Path]()
        self._block_inputs, self._block_in_array = list[int](), list[bool]()
        self._before = Counter[int]()
        self._counts, self._pii, self._forms = Counter[str](), Counter[str](), Counter[str]()
        self._engines = set[str]()
        self._rejecting: list[tuple[Path, MappedBlock, int]] = []

    def add(self, made: MappedBlock) -> None:
        """Append the next block in input order."""
        before = self._before[made.input]
        self._before[made.input] += made.lines
        if not made.key:
            return
        tokenized = self._store.read(made.key)
        self._note(tokenized, made, before)
        self._append(tokenized, before)
        self._block_ends.append(len(self._lines))
        self._block_inputs.append(made.input)
        self._block_in_array.append(made.in_array)
        self._paths.append(tokenized.path)

    def finish(self) -> tuple[ConversationTable, Notes]:
        """The table of all blocks that were added, and the counts."""
        columns = {name: column.mapped() for name, column in self._columns.items()}
        table = ConversationTable(
            line=self._lines.mapped(),
            fragment_ends=self._fragment_ends.mapped(),
            fragments=self._fragments.mapped(),
            signatures=self._signatures,
            block_ends=np.array(self._block_ends, np.int64),
            block_inputs=np.array(self._block_inputs, np.int32),
            block_in_array=np.array(self._block_in_array, np.bool_),
            paths=self._paths,
            **columns,
        )
        notes = Notes(
            lines=self._counts["lines"],
            blank=self._counts["blank"],
            rejected=self._counts["rejected"],
            untrained=self._counts["untrained"],
            empty_messages=self._counts["empty_messages"],
            forms=dict(sorted(self._forms.items())),
            pii=dict(sorted(self._pii.items())),
            engines=tuple(sorted(self._engines)),
            rejecting=tuple(self._rejecting),
        )
        return table, notes

    def _note(self, tokenized: BlockColumns, made: MappedBlock, before: int) -> None:
        notes = tokenized.notes
        self._counts.update(
            lines=notes.lines,
            blank=notes.blank,
            rejected=len(notes.rejected),
            untrained=notes.untrained,
            empty_messages=notes.empty_messages,
        )
        self._forms.update(notes.forms)
        self._pii.update(notes.pii)
        self._engines.add(notes.engine)
        if notes.rejected:
            self._rejecting.append((tokenized.path, made, before))

    def _append(self, tokenized: BlockColumns, before: int) -> None:
        columns = tokenized.columns
        for name, column in self._columns.items():
            column.append(columns[name])
        self._lines.append(columns["lines"] + before)
        counts = np.bincount(columns["conversation"], minlength=len(columns["tokens"]))
        ends = len(self._fragments) + np.cumsum(counts)
        if len(ends) and ends[-1] > MAX_FRAGMENTS:
            raise UserError(
                f"data: more than {MAX_FRAGMENTS:,} fragments of conversations; make several packs of them"
            )
        self._fragment_ends.append(ends)
        self._fragments.append(_fragments(tokenized, len(self._paths)))
        if self._signatures.num_hashes:
            self._signatures.append(read_block_signatures(tokenized.path))


def _fragments(tokenized: BlockColumns, number: int) -> NDArray[np.void]:
    """The fragments of a block, with its number."""
    columns = tokenized.columns
    fragments = np.empty(len(columns["lengths"]), FRAGMENT)
    lengths = columns["lengths"].astype(np.int64)
    # A fragment that continues is stored a second time, as its body alone.
    stored = lengths + np.where(columns["continues"], lengths - columns["context"], 0)
    fragments["word"] = tokenized.words_at // 4 + np.cumsum(stored) - stored
    fragments["block"] = number
    fragments["length"], fragments["start"] = columns["lengths"], columns["starts"]
    for name in ("context", "continues", "mid_message"):
        fragments[name] = columns[name]
    return fragments
