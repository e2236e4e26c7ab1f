"""Conversations of the training data, read back from the pack of a run.

Rows are shuffled by the seed, and every conversation that begins in a row is taken: each has the same
chance. Costs the rows that are read, and 8 bytes per conversation of the pack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemfit.data.inspect.chunks import RowChunk, chunks_of
from gemfit.data.inspect.document_ids import document_lines
from gemfit.data.inspect.pack_files import Pack, open_pack_files
from gemfit.data.inspect.printable import decode
from gemfit.data.inspect.roles import BEGIN, UNKNOWN, ControlTokens, Span, make_control_tokens, spans
from gemfit.data.render.renderer import make_renderer
from gemfit.data.tokenize.tokenizer import load_tokenizer
from gemfit.evaluate.system_prompt import is_dominant
from gemfit.schemas.evaluation import SampleMessage


@dataclass(frozen=True, slots=True)
class TrainingConversation:
    """The beginning of a conversation, or all of it."""

    place: str
    """``file:line``"""
    messages: tuple[SampleMessage, ...]
    """Whole messages only, without one that the end of the row cuts off."""


class TrainingConversations:
    """The conversations of one pack."""

    def __init__(self, folder: Path) -> None:
        self._pack = open_pack_files(folder)
        self.tokenizer: Any = load_tokenizer(str(folder / "tokenizer"))
        manifest = self._pack.manifest
        self._marks = make_control_tokens(self.tokenizer, manifest.format, manifest.eos)
        self._system_after = make_renderer(
            self.tokenizer, manifest.format, manifest.eos
        ).segments.system_after
        self._lines = document_lines(self._pack)[0].lines

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that hold any row."""
        return tuple(name for name, counts in self._pack.manifest.splits.items() if counts.rows)

    def shuffled(self, split: str, seed: int) -> Iterator[TrainingConversation]:
        """Every conversation of ``split``, shuffled by ``seed``."""
        rows, seen = self._pack.manifest.splits[split].rows, set[int]()
        for row in np.random.default_rng(seed).permutation(rows).tolist():
            for chunk in _chunks(self._pack, split, row):
                # One that is in the pack several times is one conversation all the same.
                if chunk.start == 0 and chunk.document not in seen:
                    seen.add(chunk.document)
                    line = int(self._lines[chunk.document])
                    yield TrainingConversation(self._pack.place(line), tuple(self._messages(chunk)))

    def system_prompt(self, conversations: list[TrainingConversation]) -> str:
        """The system prompt of most of ``conversations``; empty where they have none in common."""
        texts = Counter(text for one in conversations if (text := self._system_text(one)))
        text, times = texts.most_common(1)[0] if texts else ("", 0)
        return text if is_dominant(times, len(conversations)) else ""

    def _system_text(self, conversation: TrainingConversation) -> str:
        if not conversation.messages:
            return ""
        head = conversation.messages[0]
        if head.role == "system":
            return head.content
        # Where the system text stands inside the first turn, a common beginning is the only sign of it.
        text, mark, _ = head.content.partition(self._system_after) if self._system_after else ("", "", "")
        return text if self._marks.system_inside and mark else ""

    def _messages(self, chunk: RowChunk) -> Iterator[SampleMessage]:
        for span in spans(chunk.ids, self._marks):
            if span.role == BEGIN:
                continue
            content = content_ids(chunk, span, self._marks)
            if content is None:
                return
            yield SampleMessage(role=span.role, content=decode(self.tokenizer, content))


def content_ids(chunk: RowChunk, span: Span, marks: ControlTokens) -> list[int] | None:
    """The tokens of a turn without its header and its end; ``None`` for one that is not whole."""
    ids = chunk.ids[span.start : span.stop]
    header = dict(marks.headers).get(span.role)
    if span.role == UNKNOWN or header is None:
        return None
    if len(marks.final) and np.array_equal(ids[-len(marks.final) :], marks.final):
        ids = ids[: -len(marks.final)]
    for end in marks.ends:
        if np.array_equal(ids[-len(end) :], end):
            return [int(token) for token in ids[len(header) : -len(end)]]
    return None


def _chunks(pack: Pack, split: str, row: int) -> Iterator[RowChunk]:
    for batch in pack.batches(split, range(row, row + 1)):
        yield from chunks_of(batch, row - batch.first)
