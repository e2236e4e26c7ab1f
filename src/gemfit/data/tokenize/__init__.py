"""Encoders: message contents to token ids, exactly those of `tokenizers`; see ``select``.

``select`` imports compiled kernels, which ranks do without. May import `jsonl`; `bpe` only where the input is
large enough to pay for compiling it.
"""

from gemfit.data.tokenize.hf_tokenizers import reference_encoder
from gemfit.data.tokenize.protocol import ENGINES, Encoder, Engine, EngineMismatch, Texts

__all__ = [
    "ENGINES",
    "Encoder",
    "Engine",
    "EngineMismatch",
    "Texts",
    "reference_encoder",
]
