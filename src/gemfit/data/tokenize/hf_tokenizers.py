"""Reference encoder: Hugging Face ``tokenizers``, whose ids are the correct ones, at 4 to 5 MB/s."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from gemfit.core.rust_panic import RustPanicError, panics_as_errors
from gemfit.data.tokenize.protocol import Encoder, Ends, Ids
from gemfit.errors import UserError

BATCH_TEXTS = 4096
"""Texts encoded in one call: an encoding of the library holds far more than its ids."""


@dataclass(frozen=True, slots=True)
class Reference:
    """``tokenizers``, with special tokens in a text encoded as ordinary text."""

    backend: Any
    name: str = "tokenizers"

    def encode(self, text: bytes, ends: Ends) -> tuple[Ids, Ends]:
        texts = split_texts(text, ends)
        ids, counts = [], np.empty(len(texts), np.int64)
        for first in range(0, len(texts), BATCH_TEXTS):
            encodings = self._encode([text.decode() for text in texts[first : first + BATCH_TEXTS]])
            counts[first : first + len(encodings)] = [len(encoding) for encoding in encodings]
            ids.append(_join(encodings))
        return np.concatenate(ids) if ids else np.empty(0, np.uint32), np.cumsum(counts)

    def _encode(self, texts: list[str]) -> list[Any]:
        # The tokenizer is shared with the code that encodes control text, where special tokens count.
        before = self.backend.encode_special_tokens
        self.backend.encode_special_tokens = True
        try:
            with encoding():
                return list(self.backend.encode_batch_fast(texts, add_special_tokens=False))
        finally:
            self.backend.encode_special_tokens = before


def reference_encoder(tokenizer: Any) -> Encoder:
    """The reference for a ``tokenizers.Tokenizer``, or for a fast tokenizer of transformers.

    It sets ``TOKENIZERS_PARALLELISM=false`` for this process and those it starts: threads that exist
    before ``os.fork`` would be missing after it.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return Reference(backend)


@contextmanager
def encoding() -> Iterator[None]:
    """A text that the library fails on, whatever its reason, is a ``UserError``."""
    try:
        with panics_as_errors():
            yield
    except Exception as error:
        if type(error) not in (Exception, RustPanicError):  # the Rust side raises nothing narrower
            raise
        raise UserError(
            f"model.tokenizer: fails on a text: {error}; its tokenizer.json is damaged, or has patterns or "
            "tokens that contradict each other: use another tokenizer"
        ) from None


def split_texts(text: bytes, ends: Ends) -> list[bytes]:
    """The texts one by one."""
    stops = ends.tolist()
    return [text[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)] if stops else []


def _join(encodings: list[Any]) -> Ids:
    total = sum(map(len, encodings))
    return np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.uint32, total)
