"""Annotate rows of a pack: role and label of each token, source file and line of each chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemfit.data.inspect.chunks import REPEATED, RowChunk, chunks_of, positions
from gemfit.data.inspect.document_ids import document_lines
from gemfit.data.inspect.pack_files import Pack, RowBatch
from gemfit.data.inspect.printable import token_texts
from gemfit.data.inspect.roles import ControlTokens, Span, header_before_repeated_system, spans
from gemfit.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedChunk:
    """A chunk of a conversation, and where it came from."""

    chunk: RowChunk
    source: str
    file: str
    line: int
    """In the file, from 1."""
    place: str
    """File and line, or element of a JSON array."""
    conversation_tokens: int
    """Tokens of the whole conversation."""
    copies: int
    """Copies of the conversation in the pack."""
    positions: NDArray[np.int64]
    """(tokens,): index in the rendered conversation, ``REPEATED`` for what is repeated."""
    spans: tuple[Span, ...]
    """Roles of the tokens."""

    @property
    def title(self) -> str:
        """One line: which tokens of which conversation."""
        own = self.positions[self.positions != REPEATED]
        part = f"tokens {own[0]:,}–{own[-1]:,} of {self.conversation_tokens:,}"
        if len(own) == self.conversation_tokens:
            part = f"all {self.conversation_tokens:,} tokens"
        facts = [
            f"document {self.chunk.document:,}",
            self.place + (f" ({self.source})" if self.source != self.file else ""),
            part,
            f"{np.count_nonzero(self.chunk.trained):,} trained",
        ]
        if self.chunk.repeated:
            facts.append(f"{self.chunk.repeated:,} repeated")
        if self.copies > 1:
            facts.append(f"{self.copies} times in the pack")
        return " · ".join(facts)

    def to_json(self) -> dict[str, Any]:
        """The chunk as JSON; begins and ends of roles are positions in the row."""
        begin = self.chunk.begin
        return {
            "document": self.chunk.document,
            "source": self.source,
            "file": self.file,
            "line": self.line,
            "place": self.place,
            "conversation_tokens": self.conversation_tokens,
            "copies": self.copies,
            "begin": begin,
            "tokens": len(self.chunk),
            "trained_tokens": int(np.count_nonzero(self.chunk.trained)),
            "start": self.chunk.start,
            "repeated": self.chunk.repeated,
            "positions": [None if at == REPEATED else at for at in self.positions.tolist()],
            "roles": [{"role": r, "begin": begin + a, "end": begin + b} for r, a, b in self.spans],
        }


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedRow:
    """A row, or the chunks of one document in it."""

    split: str
    number: int
    num_rows: int
    ids: NDArray[np.int32]
    """(seq_len,)"""
    labels: NDArray[np.int32]
    """(seq_len,)"""
    chunks: tuple[AnnotatedChunk, ...]
    padding: int
    """Tokens after the last chunk."""

    @property
    def title(self) -> str:
        """One line: documents, fill and trained tokens."""
        places, tokens = len(self.ids), len(self.ids) - self.padding
        trained = int(np.count_nonzero(self.labels >= 0))
        chunks = f"{len(self.chunks):,} document{'s' * (len(self.chunks) != 1)}"
        fill = f"{tokens:,} of {places:,} places filled ({tokens / places:.2%})"
        row = f"{self.split} row {self.number:,} of {self.num_rows:,}"
        return f"{row}: {chunks}, {fill}, {trained:,} tokens trained"

    def to_json(self, tokenizer: Any) -> dict[str, Any]:
        """The row as JSON, with every token."""
        return {
            "split": self.split,
            "row": self.number,
            "rows": self.num_rows,
            "real_tokens": len(self.ids) - self.padding,
            "trained_tokens": int(np.count_nonzero(self.labels >= 0)),
            "tokens": token_texts(tokenizer, self.ids.tolist()),
            "ids": self.ids.tolist(),
            "labels": self.labels.tolist(),
            "documents": [chunk.to_json() for chunk in self.chunks],
        }


class RowAnnotator:
    """Annotates rows of a pack. Memory: 8 bytes per conversation that was read."""

    def __init__(self, pack: Pack, control: ControlTokens) -> None:
        self._pack, self._control = pack, control
        documents, problems = document_lines(pack)
        if problems:
            raise UserError(f"{problems[0]}; delete {pack.folder} and pack again")
        self._lines = documents.lines

    def rows(self, split: str, wanted: range) -> Iterator[AnnotatedRow]:
        """The rows with the numbers in ``wanted``, in order."""
        for batch in self._pack.batches(split, wanted):
            last = batch.first + len(batch.tokens)
            for number in range(max(batch.first, wanted.start), min(last, wanted.stop)):
                yield self._row(split, batch, number - batch.first, chunks_of(batch, number - batch.first))

    def document(self, number: int) -> list[AnnotatedRow]:
        """Every row with a chunk of the document, reduced to these chunks."""
        if not 0 <= number < len(self._lines):
            last = len(self._lines) - 1
            raise UserError(f"{self._pack.folder}: has no document {number}; they count from 0 to {last:,}")
        return [row for split in self._pack.manifest.splits for row in self._rows_with(split, number)]

    def _rows_with(self, split: str, number: int) -> Iterator[AnnotatedRow]:
        for batch in self._pack.batches(split):
            found = np.flatnonzero(batch.document == number)
            for row in np.unique(np.searchsorted(batch.ends, found, side="right") - 1).tolist():
                chunks = [chunk for chunk in chunks_of(batch, row) if chunk.document == number]
                yield self._row(split, batch, row, chunks)

    def _row(self, split: str, batch: RowBatch, row: int, chunks: Iterable[RowChunk]) -> AnnotatedRow:
        ids = batch.input_ids[row]
        return AnnotatedRow(
            split=split,
            number=batch.first + row,
            num_rows=self._pack.manifest.splits[split].rows,
            ids=ids,
            labels=batch.labels[row],
            chunks=tuple(map(self._chunk, chunks)),
            padding=len(ids) - int(batch.tokens[row]),
        )

    def _chunk(self, chunk: RowChunk) -> AnnotatedChunk:
        line = int(self._lines[chunk.document])
        source, file, number = self._pack.origin(line)
        conversations = self._pack.conversations
        # If every token is trained, labels show which tokens are repeated.
        header = (
            None
            if self._pack.manifest.loss_on == "all"
            else header_before_repeated_system(chunk, self._control)
        )
        return AnnotatedChunk(
            chunk=chunk,
            source=source,
            file=file,
            line=number,
            place=self._pack.place(line),
            conversation_tokens=int(conversations.tokens[line]),
            copies=int(conversations.copies[line]),
            positions=positions(chunk, header),
            spans=tuple(spans(chunk.ids, self._control)),
        )
