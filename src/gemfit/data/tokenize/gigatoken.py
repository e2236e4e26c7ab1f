"""``gigatoken`` encoder: exact for the tokenizers it supports, 25 to 100 MB/s. An optional dependency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gemfit.core.install_hint import install_hint
from gemfit.data.tokenize.protocol import Ends, Ids, Unsuited
from gemfit.data.tokenize.tokenizer_json import TokenizerJson, shadowing

MAX_IDS = 2**26
"""Larger ids than any vocabulary has: the engine fills a table up to the largest one."""


@dataclass(frozen=True, slots=True)
class Gigatoken:
    """An encoder that returns the engine's own arrays, without a copy."""

    backend: Any
    awkward: Any
    name: str = "gigatoken"

    def encode(self, text: bytes, ends: Ends) -> tuple[Ids, Ends]:
        check_utf8(text, ends)
        # Its thread pool would not survive a fork: always on this thread.
        rows = self.backend.encode_batch(self._texts(text, ends), parallel=False).layout
        offsets = np.asarray(rows.offsets.data)
        return np.asarray(rows.content.data)[offsets[0] : offsets[-1]], offsets[1:] - offsets[0]

    def _texts(self, text: bytes, ends: Ends) -> Any:
        layout = self.awkward.contents
        offsets = np.concatenate([np.zeros(1, np.int64), ends])
        characters = layout.NumpyArray(np.frombuffer(text, np.uint8), parameters={"__array__": "byte"})
        index = self.awkward.index.Index64(offsets)
        return self.awkward.Array(
            layout.ListOffsetArray(index, characters, parameters={"__array__": "bytestring"})
        )


def check_utf8(text: bytes, ends: Ends) -> None:
    """Raise ``ValueError`` where a text is not UTF-8, on which the engine would crash the process."""
    text.decode()
    starts = np.frombuffer(text, np.uint8)[ends[ends < len(text)]]
    if np.any(starts & 0xC0 == 0x80):
        raise ValueError("a text ends within a character")


def gigatoken_encoder(tokenizer: TokenizerJson) -> Gigatoken:
    """The engine for this tokenizer; ``Unsuited`` where it is not installed or cannot be exact."""
    try:
        # Optional, and 0.1 s to import.
        import awkward  # noqa: PLC0415
        import gigatoken  # noqa: PLC0415
    except ImportError as error:
        raise Unsuited(f"it cannot be imported ({error}); {install_hint('train')}") from None
    overlap = shadowing(tokenizer.added_tokens)
    if overlap is not None:
        raise Unsuited("the special token {!r} overlaps the added token {!r}".format(*overlap))
    if max(tokenizer.vocabulary.values(), default=0) >= MAX_IDS:
        raise Unsuited("it has a table of all ids up to the largest, which is very large here")
    try:
        backend = gigatoken.Tokenizer.from_json(tokenizer.without(*_redundant_steps(tokenizer))).backend
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise Unsuited(f"it cannot load this tokenizer ({str(error).splitlines()[0]})") from None
    return Gigatoken(backend, awkward)


def _redundant_steps(tokenizer: TokenizerJson) -> tuple[str, ...]:
    """The pre-tokenizer, where tokens are proven to be the same without it: the engine supports few."""
    # Only here: a build without gigatoken imports none of the compiled BPE for it.
    from gemfit.data.tokenize.bpe.pretokenize_proof import check_provable  # noqa: PLC0415
    from gemfit.data.tokenize.bpe.split_rules import split_steps, splits_vocabulary  # noqa: PLC0415

    try:
        check_provable(tokenizer)
    except Unsuited:
        return ()
    steps = split_steps(tokenizer.fields.get("pre_tokenizer"))
    return () if splits_vocabulary(steps, tokenizer.vocabulary) else ("pre_tokenizer",)
