"""Make every conversation fit into a row, and keep exact accounts of what that cost."""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.data.document import Document, Words, count_trained
from gemfit.data.split import Atom, split


@dataclass(slots=True)
class Fitter:
    """Applies ``data.overlong`` and counts; the names are those of ``Losses``."""

    overlong: str
    seq_len: int
    split_conversations: int = 0
    truncated_conversations: int = 0
    truncated_tokens: int = 0
    dropped_conversations: int = 0
    dropped_tokens: int = 0

    def fit(self, document: Document) -> list[Atom]:
        """What of a document is packed: atoms of at most ``seq_len`` words."""
        length = len(document.words)
        if length <= self.seq_len:
            return split(document, self.seq_len)
        if self.overlong == "split":
            self.split_conversations += 1
            return split(document, self.seq_len)
        if self.overlong == "truncate":
            return self._truncate(document.words)
        self.dropped_conversations += 1
        self.dropped_tokens += length
        return []

    def _truncate(self, words: Words) -> list[Atom]:
        kept = words[: self.seq_len]
        if not count_trained(kept):  # the question alone fills the row: there is nothing to learn
            kept = kept[:0]
        self.truncated_conversations += 1
        self.truncated_tokens += len(words) - len(kept)
        return [Atom(kept, kept, linked=False)] if len(kept) else []
