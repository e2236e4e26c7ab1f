"""Load a checkpoint and verify it in one pass: one rank reads each file, once, and sends what others hold.

Files are spread over the ranks; each is digested while it is read, and the stored pieces go to the ranks
whose shards overlap them. A byte of a checkpoint is read once, whatever strategy and number of ranks have
saved it; under the layout that saved, every rank reads its own files and nothing is sent. All ranks go
through the files in rounds of at most ``ROUND_BYTES`` (or one stored piece), and meet after each: none
waits for another's disk for longer than that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gemfit.checkpoint.integrity import content_damage
from gemfit.schemas.manifest import FileDigest
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.safe_reader import SafeReader
from gemfit.train.checkpoint.storage_layout import Span, Spans, StoredPiece, assign, rounds, stored_pieces
from gemfit.train.checkpoint.verifying_reader import DamageError, VerifyingReader
from gemfit.train.collective import COLLECTIVE_TIMEOUT, on_every_rank, on_first_rank, rank, world_size

DATA_SUFFIX = ".distcp"
"""Of the files that hold tensors, as torch names them."""
ROUND_BYTES = 2**28
"""Bytes of a file that a rank reads between two meetings; fewer where ranks hold copies, which are sent."""


def load(
    shards: dict[str, FlatShard],
    folder: Path,
    files: Iterable[FileDigest],
    after_round: Callable[[], None] = lambda: None,
) -> str | None:
    """Fill ``shards`` in place; returns the first damage found, after which they hold anything. Collective.

    Raises ``ValueError`` where a name or a shape is not what was saved.
    """
    digests = {file.path: file for file in files}
    small = [file for path, file in digests.items() if not path.endswith(DATA_SUFFIX)]
    damage = on_first_rank(lambda: next(filter(None, (content_damage(folder, file) for file in small)), None))
    if damage is not None:
        return damage
    parsed: list[dict[str, list[StoredPiece]]] = []
    # With sizes that are known, ranks do not ask the file system for as many files as there are ranks.
    reader = SafeReader(folder, {file.path: file.bytes for file in digests.values()})
    on_every_rank(lambda: parsed.append(stored_pieces(reader.read_metadata(), shards)))
    spans = {name: (shard.start, shard.start + shard.flat.numel()) for name, shard in shards.items()}
    held = on_every_rank(lambda: spans)
    group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if dist.is_initialized() else None
    exchange = _Exchange(shards, held, parsed[0], folder, digests, group)
    try:
        return exchange.run(after_round)
    finally:
        exchange.close()
        if group is not None:
            dist.destroy_process_group(group)


class _Exchange:
    """The rounds of one load, which every rank works out for itself: nothing is sent but pieces."""

    def __init__(
        self,
        shards: dict[str, FlatShard],
        held: list[Spans],
        stored: dict[str, list[StoredPiece]],
        folder: Path,
        digests: dict[str, FileDigest],
        group: Any,
    ) -> None:
        self._shards, self._held, self._group = shards, held, group
        own = held[rank()]
        needed = {
            file: sum(stop - start for piece in pieces for start, stop in [piece.overlap(own) or (0, 0)])
            for file, pieces in stored.items()
        }
        files = {path: entry.bytes for path, entry in digests.items() if path.endswith(DATA_SUFFIX)}
        readers = assign(files, on_every_rank(lambda: needed))
        elements = sum(stop - start for spans in held for start, stop in spans.values())
        copies = max(round(elements / max(sum(_elements(pieces) for pieces in stored.values()), 1)), 1)
        self._rounds = [
            rounds((piece for file in files for piece in stored.get(file, [])), max(ROUND_BYTES // copies, 1))
            for files in readers
        ]
        self._reader = VerifyingReader(folder, [digests[file] for file in readers[rank()]])

    def run(self, after_round: Callable[[], None]) -> str | None:
        """Read, send and receive round by round, until all files are read or one is damaged."""
        for number in range(max(map(len, self._rounds), default=0)):
            read: dict[StoredPiece, torch.Tensor] = {}
            if (damage := self._meet(lambda: self._read(number, read))) is not None:  # noqa: B023
                return damage
            self._send_and_fill(number, read)
            after_round()
        return self._meet(self._reader.finish)

    def close(self) -> None:
        self._reader.close()

    def _meet(self, action: Callable[[], None]) -> str | None:
        """Run ``action`` on every rank; the first damage that one has found."""

        def damage() -> str | None:
            try:
                action()
            except DamageError as error:
                return str(error)
            return None

        return next(filter(None, on_every_rank(damage, self._group)), None)

    def _of_round(self, reader: int, number: int) -> list[StoredPiece]:
        mine = self._rounds[reader]
        return mine[number] if number < len(mine) else []

    def _read(self, number: int, read: dict[StoredPiece, torch.Tensor]) -> None:
        for piece in self._of_round(rank(), number):
            read[piece] = self._reader.read(piece)

    def _send_and_fill(self, number: int, read: dict[StoredPiece, torch.Tensor]) -> None:
        waiting, received = [], []
        for other in range(world_size()):
            if other == rank():
                continue
            for piece in self._of_round(other, number):
                if (span := piece.overlap(self._held[rank()])) is not None:
                    buffer = torch.empty(span[1] - span[0], dtype=piece.dtype)
                    waiting.append(dist.irecv(buffer, other, group=self._group))
                    received.append((piece.name, span, buffer))
            for piece, tensor in read.items():
                if (span := piece.overlap(self._held[other])) is not None:
                    waiting.append(dist.isend(_cut(tensor, piece, span), other, group=self._group))
        for piece, tensor in read.items():
            if (span := piece.overlap(self._held[rank()])) is not None:
                self._fill(piece.name, span, _cut(tensor, piece, span))
        for work in waiting:
            if work is not None:
                work.wait()
        for name, span, buffer in received:
            self._fill(name, span, buffer)

    def _fill(self, name: str, span: Span, values: torch.Tensor) -> None:
        shard = self._shards[name]
        shard.flat[span[0] - shard.start : span[1] - shard.start].copy_(values)


def _elements(pieces: Iterable[StoredPiece]) -> int:
    return sum(piece.span[1] - piece.span[0] for piece in pieces)


def _cut(tensor: torch.Tensor, piece: StoredPiece, span: Span) -> torch.Tensor:
    return tensor[span[0] - piece.span[0] : span[1] - piece.span[0]]
