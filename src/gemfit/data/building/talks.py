"""The columns of all parts, joined in input order: all that planning the rows has to know.

Memory: about 90 bytes a conversation and 25 an atom (one for each conversation that fits into a row).
Signatures of near duplicates are read apart, into a mapped file that takes room on disk for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.building.gather import AtomPlaces
from gemfit.data.building.make_parts import Made
from gemfit.data.building.parts import PartColumns, PartStore, read_part_signatures
from gemfit.data.reading.columns import Ints

_COPIED = ("digests", "likeness", "tokens", "trained", "role_tokens", "truncated", "dropped", "untrained")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Talks:
    """Every valid conversation that was read, in input order. Shapes in brackets."""

    input: Ints
    """(conversations,): index into the inputs."""
    line: NDArray[np.int64]
    """(conversations,): line of that input, from 1."""
    digests: NDArray[np.uint64]
    """(conversations, 2)"""
    likeness: NDArray[np.uint64]
    tokens: Ints
    trained: Ints
    role_tokens: Ints
    """(conversations, roles)"""
    truncated: Ints
    dropped: Ints
    untrained: Ints

    first_atom: NDArray[np.int64]
    """(conversations + 1,): where the atoms of each begin and end."""
    linked: NDArray[np.bool_]
    """(atoms,)"""
    torn: NDArray[np.bool_]
    """(atoms,)"""
    starts: Ints
    """(atoms,)"""
    places: AtomPlaces
    paths: list[Path]
    """Of the parts, by number."""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """What was read beside the valid conversations."""

    lines: int
    blank: int
    rejected: int
    pii: dict[str, int]
    engines: tuple[str, ...]
    rejecting: tuple[tuple[Path, int, int], ...]
    """Parts with rejected lines: file, input, and lines of that input before it."""

    def rejections(self) -> Iterator[tuple[int, int, str]]:
        """Input, line and reason of every rejected line; reads them from the parts."""
        for path, input, before in self.rejecting:
            for line, reason in PartColumns.read(path).notes.rejected:
                yield input, before + line, reason


def read_talks(store: PartStore, made: Sequence[Made]) -> tuple[Talks, Notes]:
    """Join the parts of all blocks. made: of every block, in input order."""
    parts: list[PartColumns] = []
    inputs: list[int] = []
    before: list[int] = []
    lines = Counter[int]()
    for one in made:
        if one.key:
            parts.append(store.read(one.key))
            inputs.append(one.input)
            before.append(lines[one.input])
        lines[one.input] += one.lines
    return _joined(parts, inputs, before), _notes(parts, inputs, before)


def read_signatures(paths: Sequence[Path], count: int, scratch: Path) -> NDArray[np.uint32]:
    """MinHash signatures of all conversations, mapped from a file in ``scratch``: (conversations, K)."""
    parts = (read_part_signatures(path) for path in paths)
    joined: NDArray[np.uint32] | None = None
    at = 0
    for signatures in parts:
        if joined is None and len(signatures):
            shape = (count, signatures.shape[1])
            joined = (
                np.memmap(scratch, np.uint32, "w+", shape=shape) if shape[1] else np.empty(shape, np.uint32)
            )
        if joined is not None:
            joined[at : at + len(signatures)] = signatures
        at += len(signatures)
    return np.empty((count, 0), np.uint32) if joined is None else joined


def _joined(parts: list[PartColumns], inputs: list[int], before: list[int]) -> Talks:
    columns = [part.columns for part in parts]
    counts = np.array([len(part["tokens"]) for part in columns], np.int64)
    atoms = np.array([len(part["lengths"]) for part in columns], np.int64)
    copied = {name: _joined_column(columns, name) for name in _COPIED}
    lines = [part["lines"] + start for part, start in zip(columns, before, strict=True)]
    return Talks(
        input=np.repeat(np.array(inputs, np.int32), counts),
        line=np.concatenate([np.empty(0, np.int64), *lines]),
        first_atom=_first_atoms(columns, counts),
        linked=_joined_column(columns, "linked"),
        torn=_joined_column(columns, "torn"),
        starts=_joined_column(columns, "starts"),
        places=AtomPlaces(
            lengths=_joined_column(columns, "lengths"),
            context=_joined_column(columns, "context"),
            at=np.concatenate([np.empty(0, np.int64), *map(_words_at, parts)]),
            part=np.repeat(np.arange(len(parts), dtype=np.int32), atoms),
        ),
        paths=[part.path for part in parts],
        **copied,
    )


def _joined_column(columns: list[dict[str, NDArray[Any]]], name: str) -> NDArray[Any]:
    return np.concatenate([part[name] for part in columns])


def _first_atoms(columns: list[dict[str, NDArray[Any]]], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    sizes = [
        np.bincount(part["conversation"], minlength=count)
        for part, count in zip(columns, counts.tolist(), strict=True)
    ]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])


def _words_at(part: PartColumns) -> NDArray[np.int64]:
    """Byte of the file at which each atom begins."""
    lengths = part.columns["lengths"].astype(np.int64)
    # A linked atom is stored a second time, as its body alone.
    stored = lengths + np.where(part.columns["linked"], lengths - part.columns["context"], 0)
    return part.words_at + 4 * (np.cumsum(stored) - stored)


def _notes(parts: list[PartColumns], inputs: list[int], before: list[int]) -> Notes:
    pii = Counter[str]()
    for part in parts:
        pii.update(part.notes.pii)
    return Notes(
        lines=sum(part.notes.lines for part in parts),
        blank=sum(part.notes.blank for part in parts),
        rejected=sum(len(part.notes.rejected) for part in parts),
        pii=dict(sorted(pii.items())),
        engines=tuple(sorted({part.notes.engine for part in parts})),
        rejecting=tuple(
            (part.path, input, start)
            for part, input, start in zip(parts, inputs, before, strict=True)
            if part.notes.rejected
        ),
    )
