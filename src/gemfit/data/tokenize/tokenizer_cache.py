"""Tokenizers that were loaded before: their ids, digest and files, without the library that loads them.

Loading Gemma's tokenizer through transformers takes some three seconds, most of which go into importing
it. What comes out depends on the files of the tokenizer and the versions of the libraries alone, so it is
kept in the cache (some 45 MB for each) under a digest of these.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from gemfit.core.atomic_file import write_atomic
from gemfit.data.tokenize.tokenizer import load_tokenizer, save_tokenizer, tokenizer_digest
from gemfit.schemas.base import digest_json
from gemfit.schemas.pack_job import TOKENIZER_FILES, cache_folder
from gemfit.schemas.source_file import digest_file

_SPECIAL = ("bos", "eos", "pad", "unk")
_NOTES, _BACKEND, _SAVED, _CONTROL = "notes.json", "backend.json", "saved", "control.json"
_FORMAT = 1


@dataclass
class KnownTokenizer:
    """Stands in for a tokenizer of transformers, and loads that only where a template is rendered."""

    folder: Path
    """In the cache."""
    source: str
    """What it was loaded from."""
    digest: str
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int | None
    unk_token_id: int | None
    is_fast: bool = field(default=True, init=False)

    @cached_property
    def backend_json(self) -> bytes:
        """The backend, as it writes itself."""
        return (self.folder / _BACKEND).read_bytes()

    @cached_property
    def backend_tokenizer(self) -> Tokenizer:
        """The Rust side: the ids are its."""
        # Not by backend_json, which would stay: tens of megabytes.
        return Tokenizer.from_buffer((self.folder / _BACKEND).read_bytes())

    @cached_property
    def _whole(self) -> Any:
        return load_tokenizer(self.source)

    def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
        """As the library has it."""
        return self._whole.apply_chat_template(*arguments, **options)

    def control_ids(self, text: str) -> list[int]:
        """Ids of control text, special tokens recognised; kept, so that nothing large is loaded for them."""
        try:
            known: dict[str, list[int]] = json.loads((self.folder / _CONTROL).read_text("utf-8"))
        except (OSError, ValueError):
            known = {}
        if text not in known:
            self.backend_tokenizer.no_truncation()
            self.backend_tokenizer.no_padding()
            known[text] = self.backend_tokenizer.encode(text, add_special_tokens=False).ids
            with suppress(OSError):  # without room for it the backend is loaded again, no more
                write_atomic(self.folder / _CONTROL, json.dumps(known))
        return known[text]

    def forget(self) -> None:
        """Give the backend back; it is read again if somebody asks for it."""
        for name in ("backend_json", "backend_tokenizer"):
            self.__dict__.pop(name, None)

    def save_pretrained(self, folder: str) -> None:
        """Write the files that the library would write."""
        shutil.copytree(self.folder / _SAVED, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


def known_tokenizer(name: str, revision: str) -> Any:
    """The tokenizer of a Hugging Face id or local folder; that of a folder is loaded in full only once."""
    source = Path(name).expanduser()
    if not (source / "tokenizer.json").is_file():
        return load_tokenizer(name, revision)
    folder = cache_folder() / "tokenizers" / _key(source)
    if not folder.is_dir():
        tokenizer = load_tokenizer(name, revision)
        if not _remember(tokenizer, folder):
            return tokenizer
    notes = json.loads((folder / _NOTES).read_text("utf-8"))
    return KnownTokenizer(folder=folder, source=str(source), **notes)


def digest_of(tokenizer: Any) -> str:
    """``tokenizer_digest``, which a known tokenizer has at hand."""
    return tokenizer.digest if isinstance(tokenizer, KnownTokenizer) else tokenizer_digest(tokenizer)


def backend_json(tokenizer: Any) -> bytes:
    """The tokenizer's backend, as it writes itself."""
    if isinstance(tokenizer, KnownTokenizer):
        return tokenizer.backend_json
    text: str = tokenizer.backend_tokenizer.to_str()
    return text.encode()


def _key(source: Path) -> str:
    """Of all that loading depends on; a configuration of the model may choose the tokenizer's class."""
    files = (*TOKENIZER_FILES, "config.json", "special_tokens_map.json", "added_tokens.json")
    libraries = {library: version(library) for library in ("tokenizers", "transformers")}
    found = {name: digest_file(source / name).xxh3 for name in files if (source / name).is_file()}
    return digest_json({"format": _FORMAT, "files": found, "libraries": libraries})


def _remember(tokenizer: Any, folder: Path) -> bool:
    """Keep a tokenizer in ``folder``; False where its backend cannot be had from its JSON."""
    text = tokenizer.backend_tokenizer.to_str()
    if Tokenizer.from_str(text).to_str() != text:
        return False
    notes = {
        "digest": tokenizer_digest(tokenizer),
        "chat_template": tokenizer.chat_template,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL},
    }
    try:
        _write(tokenizer, folder, text, notes)
    except OSError:  # without room for it the next build loads it again, no more
        return False
    return True


def _write(tokenizer: Any, folder: Path, text: str, notes: dict[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as name:
        partial = Path(name) / folder.name
        save_tokenizer(tokenizer, partial / _SAVED)
        (partial / _BACKEND).write_text(text, "utf-8")
        (partial / _NOTES).write_text(json.dumps(notes), "utf-8")
        if not folder.is_dir():  # another build may have been faster
            partial.rename(folder)
