"""Cache file of the encoder's tables, written once they were verified: 13 MB for Gemma.

Making them takes a second for Gemma, and verifying them another, to load the reference. A damaged file
counts as none.
"""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from gemfit.core.atomic_file import replacing
from gemfit.data.tokenize.bpe.bpe_merge import MergeTables
from gemfit.data.tokenize.bpe.word_cache import WordCache, make_word_cache

_PROOFS = ("split_points", "char_pairs", "splittable_runs")


def save_tables(cache: WordCache, path: Path) -> None:
    """Write the tables of a cache atomically; where the disk is full they are not cached."""
    arrays = cache.merge_tables._asdict() | {name: getattr(cache, name) for name in _PROOFS}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("xb") as stream:
            np.savez(stream, **arrays)


def load_tables(path: Path) -> WordCache | None:
    """An empty word cache on cached tables; ``None`` where there is no valid file."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            merge_tables = MergeTables(*(file[name] for name in MergeTables._fields))
            return make_word_cache(merge_tables, *(file[name] for name in _PROOFS))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
