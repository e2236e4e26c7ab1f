"""Cache location of the word cache's tables; light, so that asking for it imports no compiled code."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from gemfit.data.tokenize.file_tokenizer import tokenizer_digest_of
from gemfit.schemas.base import digest_json
from gemfit.schemas.pack_job import cache_folder

FORMAT = 4
"""Raised with every change of what the tables hold (``tokenize/bpe``), or of how they are used."""


def tables_path(tokenizer: Any) -> Path:
    """The file with the tables of this tokenizer; there once this version of the reference verified them."""
    key = {"format": FORMAT, "tokenizer": tokenizer_digest_of(tokenizer), "tokenizers": version("tokenizers")}
    return cache_folder() / "words" / f"{digest_json(key)}.npz"


def delete_tables(tokenizer: Any) -> None:
    """Remove tables that have given wrong ids."""
    tables_path(tokenizer).unlink(missing_ok=True)
