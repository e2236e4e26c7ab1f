"""What is packed, and the name under which the result is cached.

The launcher asks by this name without a tokenizer; the builder in ``gemfit.data`` makes it true.
"""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path

from gemfit.contract import Contract, digest_json
from gemfit.errors import UserError
from gemfit.recipe import DataRecipe, ModelRecipe, Recipe

PACK_FORMAT = 3
"""Raised whenever the rows that the same input gives would change."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")


class SourceFile(Contract):
    """One input file, as it was when the pack was planned."""

    path: str
    bytes: int
    blake2b: str
    """BLAKE2b-128 of the content, in hexadecimal."""


class PackJob(Contract):
    """Everything that the builder needs: the input of ``python -m gemfit.data``."""

    data: DataRecipe
    tokenizer: str | None
    """Hugging Face id or local folder; `None` trains one for `scratch`."""
    tokenizer_revision: str
    scratch_vocab_size: int | None
    seed: int
    files: tuple[SourceFile, ...]
    """Empty for an `hf:` source."""
    fingerprint: str


def make_pack_job(recipe: Recipe) -> PackJob:
    """Find the input files, digest them, and name the pack that they give.

    Reads every input byte once. Missing, empty and unreadable sources are a ``UserError``.
    """
    files = (
        () if _is_hub(recipe.data) else tuple(_digest_file(path) for path in find_files(recipe.data.source))
    )
    settings = recipe.data.model_dump(mode="json", exclude={"source", "on_error"})
    if _is_hub(recipe.data):
        settings["source"] = recipe.data.source
    tokenizer = recipe.model.tokenizer or recipe.model.id
    scratch = recipe.model.scratch
    meaning = {
        "format": PACK_FORMAT,
        "settings": settings,
        # A renamed or moved file gives the same rows, so only content counts, in order.
        "files": [file.blake2b for file in files],
        "tokenizer": _tokenizer_identity(recipe.model),
        "on_error": recipe.data.on_error,
    }
    return PackJob(
        data=recipe.data,
        tokenizer=tokenizer,
        tokenizer_revision=recipe.model.revision,
        scratch_vocab_size=scratch.vocab_size if scratch else None,
        seed=recipe.seed,
        files=files,
        fingerprint=digest_json(meaning),
    )


def find_files(source: str | None) -> list[Path]:
    """The JSONL files that a file name, folder or glob stands for, sorted by path."""
    if source is None:
        raise UserError("data.source is not set; pass --data FILE.jsonl or write data.source in the recipe")
    path = Path(source).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES)]
    elif glob.has_magic(source) and not path.exists():
        found = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    elif path.is_file():
        found = [path]
    else:
        raise UserError(f"{source}: there is no such file or folder; data.source names the conversations")
    if not found:
        raise UserError(f"{source}: no {', '.join(SUFFIXES)} file is there")
    return sorted(found)


def cache_folder() -> Path:
    """``$GEMFIT_CACHE``, else ``$XDG_CACHE_HOME/gemfit``, else ``~/.cache/gemfit``."""
    if own := os.environ.get("GEMFIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gemfit"


def pack_folder(fingerprint: str) -> Path:
    """Where the pack with this fingerprint lies, or will lie."""
    return cache_folder() / "packs" / fingerprint


def _is_hub(data: DataRecipe) -> bool:
    return (data.source or "").startswith("hf:")


def _tokenizer_identity(model: ModelRecipe) -> object:
    if model.scratch is not None:
        return {"trained": model.scratch.vocab_size}
    name = model.tokenizer or model.id
    assert name is not None, "ModelRecipe has an id or is scratch"
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return {"id": name, "revision": model.revision}
    return {f: _digest_file(folder / f).blake2b for f in TOKENIZER_FILES if (folder / f).is_file()}


def _digest_file(path: Path) -> SourceFile:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if size == 0:
        raise UserError(f"{path}: is empty; write one conversation a line")
    return SourceFile(path=str(path), bytes=size, blake2b=digest.hexdigest())
