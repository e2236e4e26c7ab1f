"""Choose the fastest engine that gives the reference's ids, proved on the data at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer

from gemfit.data.encode.encoder import Encoder, Engine, Texts
from gemfit.data.encode.reference import reference_encoder


def choose_encoder(
    tokenizer_json: str | bytes,
    sample: Texts,
    say: Callable[[str], None],
    *,
    engine: Engine = "auto",
    tokenizer: Any = None,
) -> Encoder:
    """An encoder for the tokenizer of this ``tokenizer.json``; ``tokenizer`` is the same, where loaded."""
    if tokenizer is None:
        tokenizer = Tokenizer.from_buffer(
            tokenizer_json.encode() if isinstance(tokenizer_json, str) else tokenizer_json
        )
    return reference_encoder(tokenizer)
