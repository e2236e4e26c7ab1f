"""Tables of the word cache, kept in a file once they were proved: 13 MB that are there at once.

Making them takes a second for Gemma, and their proof another for loading the reference. A file that is
damaged counts as none.
"""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from gemfit.core.atomic_file import replacing
from gemfit.data.tokenize.bpe.bpe_merge import Merges
from gemfit.data.tokenize.bpe.word_cache import WordCache, make_word_cache

_OTHERS = ("cuts", "together", "runs")


def save_tables(cache: WordCache, path: Path) -> None:
    """Keep the tables of a cache, whole or not at all; without room for them they are made again, no more."""
    arrays = cache.merges._asdict() | {name: getattr(cache, name) for name in _OTHERS}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("xb") as stream:
            np.savez(stream, **arrays)


def load_tables(path: Path) -> WordCache | None:
    """An empty cache on kept tables; ``None`` where there are none."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            merges = Merges(*(file[name] for name in Merges._fields))
            return make_word_cache(merges, *(file[name] for name in _OTHERS))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
