"""Encoder protocol: UTF-8 in, token ids out, arrays at both ends.

An encoder works on one thread and may be used after ``os.fork``: worker processes are the parallelism.
Contents are users' text, so nothing in them becomes a control token and none is added.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint32]
Ends = NDArray[np.int64]

Engine = Literal["auto", "tokenizers", "gigatoken"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


class Texts(Protocol):
    """Texts joined in UTF-8, and where each ends: (texts,). ``Messages`` is one."""

    @property
    def text(self) -> bytes: ...

    @property
    def ends(self) -> Ends: ...


class Encoder(Protocol):
    """Encodes texts exactly as the reference, ``tokenizers``, does."""

    @property
    def name(self) -> str:
        """Its name in a manifest: ``tokenizers``, ``word cache`` or ``gigatoken``."""

    def encode(self, text: bytes, ends: Ends) -> tuple[Ids, Ends]:
        """Ids (tokens,) of all texts, and where each text ends in them (texts,); see ``Texts``."""


class EngineMismatch(Exception):
    """An engine gave other ids than the reference: its output is discarded, the reference is correct."""


class Unsuited(Exception):
    """An engine cannot encode exactly for a tokenizer; the message is why, as the end of a sentence."""
