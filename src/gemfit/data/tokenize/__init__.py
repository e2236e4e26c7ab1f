"""Contents to token ids, as fast as the machine and exactly as the reference.

``select_encoder`` gives the fastest engine whose ids are those of ``tokenizers``; see ``choose``.
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
