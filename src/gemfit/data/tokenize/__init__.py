"""Encoders: message contents to token ids, exactly those of `tokenizers`; see ``select``.

May import `jsonl`; `bpe` only where the input is large enough to pay for compiling it.
"""

from gemfit.data.tokenize.hf_tokenizers import reference_encoder
from gemfit.data.tokenize.protocol import ENGINES, Encoder, Engine, EngineMismatch, Texts
from gemfit.data.tokenize.select import select_encoder

__all__ = [
    "ENGINES",
    "Encoder",
    "Engine",
    "EngineMismatch",
    "Texts",
    "reference_encoder",
    "select_encoder",
]
