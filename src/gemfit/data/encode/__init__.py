"""Contents to token ids, as fast as the machine and exactly as the reference.

``choose_encoder`` gives the fastest engine whose ids are those of ``tokenizers``; see ``choose``.
"""

from gemfit.data.encode.choose import choose_encoder
from gemfit.data.encode.encoder import ENGINES, Encoder, Engine, EngineMismatch, Texts
from gemfit.data.encode.reference import reference_encoder

__all__ = [
    "ENGINES",
    "Encoder",
    "Engine",
    "EngineMismatch",
    "Texts",
    "choose_encoder",
    "reference_encoder",
]
