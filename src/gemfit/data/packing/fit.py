"""Make a conversation fit into rows, and say exactly what that cost."""

from __future__ import annotations

from typing import NamedTuple

from gemfit.data.packing.split import Atom, split
from gemfit.data.rendering.document import Document, Words, count_trained


class Fitted(NamedTuple):
    """What of one conversation is packed, and what is not; tokens."""

    atoms: list[Atom]
    truncated: int = 0
    """Cut off by ``truncate``."""
    dropped: int = 0
    """All of them, where ``drop`` left the conversation out."""
    untrained: int = 0
    """Of atoms without a single trained token, which are left out."""


def fit(document: Document, overlong: str, seq_len: int) -> Fitted:
    """Atoms of at most ``seq_len`` words; ``overlong`` (as in ``data``) says how, where it is longer."""
    words = document.words
    if len(words) <= seq_len:
        return Fitted([Atom(words, words, linked=False, start=0)])
    if overlong == "drop":
        return Fitted([], dropped=len(words))
    if overlong == "truncate":
        return _truncated(words, seq_len)
    atoms = split(document, seq_len, anywhere=overlong == "cut")
    return Fitted(atoms, untrained=len(words) - sum(len(atom.body) for atom in atoms))


def _truncated(words: Words, seq_len: int) -> Fitted:
    kept = words[:seq_len]
    if not count_trained(kept):  # the question alone fills the row: there is nothing to learn
        return Fitted([], truncated=len(words))
    return Fitted([Atom(kept, kept, linked=False, start=0)], truncated=len(words) - seq_len)
