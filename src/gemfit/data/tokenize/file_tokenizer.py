"""Tokenizer read from its files by ``tokenizers``, without importing transformers.

Importing transformers and loading Gemma's tokenizer through it takes some six seconds, the library
alone one and a half. Ids, digest and special tokens are those of transformers for Gemma's class and for
plain ``tokenizer.json`` tokenizers; every other class is loaded by transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from gemfit.core.atomic_file import write_atomic
from gemfit.core.file_digest import file_xxh3
from gemfit.core.rust_panic import panics_as_errors
from gemfit.data.tokenize.hf_tokenizers import encoding
from gemfit.data.tokenize.tokenizer import TOKENIZER_FILE, load_tokenizer, tokenizer_digest
from gemfit.data.tokenize.tokenizer_trial import check_size, check_tokenizer_file
from gemfit.errors import UserError
from gemfit.schemas.base import digest_json
from gemfit.schemas.pack_job import TOKENIZER_FILES, cache_folder

FILE_CLASSES = {"GemmaTokenizer", "PreTrainedTokenizer", "TokenizersBackend"}
"""Classes, without `Fast`, whose ids are those of tokenizer.json as it is."""
NAMED = ("bos", "eos", "pad", "unk", "mask")
_FILES = (*TOKENIZER_FILES, "special_tokens_map.json")
_FOREIGN = ("added_tokens.json", "additional_chat_templates")
"""Files of older or richer tokenizers, which transformers merges by rules of its own."""
_CACHE_FORMAT = 2


@dataclass(frozen=True)
class FileTokenizer:
    """The part of a tokenizer that a build needs; transformers is loaded only to render a chat template."""

    folder: Path
    digests: dict[str, str]
    """Of its files, by name."""
    special: dict[str, str]
    """Token by name, `bos` to `mask`."""
    chat_template: str | None
    is_fast: bool = field(default=True, init=False)

    @cached_property
    def backend_tokenizer(self) -> Tokenizer:
        """The Rust side, without truncation and padding."""
        path = self.folder / TOKENIZER_FILE
        check_tokenizer_file(path)
        try:
            with panics_as_errors():
                backend = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises nothing narrower
            raise UserError(f"{path}: is damaged: {error}; copy the tokenizer again") from None
        backend.no_truncation()
        backend.no_padding()
        named = [token for token in self.special.values() if backend.token_to_id(token) is not None]
        # A token with a role is special even where tokenizer.json does not mark it: Gemma's <mask>.
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in named])
        return backend

    @cached_property
    def digest(self) -> str:
        """``tokenizer_digest``, cached on disk."""
        return str(*self._cached({"digest": lambda: tokenizer_digest(self)}))

    def control_ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of control texts, with special tokens recognised; cached on disk."""

        def encode(text: str) -> list[int]:
            backend = self.backend_tokenizer
            with encoding():
                return list(backend.encode(text, add_special_tokens=False).ids)

        return self._cached({f"control {text}": partial(encode, text) for text in texts})

    def __getattr__(self, name: str) -> Any:
        """``bos_token``, ``bos_token_id`` and so on for each of ``NAMED``; None where there is none."""
        role, _, what = name.partition("_")
        if role not in NAMED or what not in ("token", "token_id"):
            raise AttributeError(name)
        token = self.special.get(role)
        if what == "token" or token is None:
            return token
        return self._special_ids[token]

    @cached_property
    def _special_ids(self) -> dict[str, int | None]:
        """Id by special token; cached on disk."""

        def ids() -> dict[str, int | None]:
            return {token: self.backend_tokenizer.token_to_id(token) for token in self.special.values()}

        found = dict(*self._cached({"special ids": ids}))
        if found[self.special["eos"]] is None:
            raise UserError(
                f"{self.folder}: the EOS token {self.special['eos']!r} is not in tokenizer.json; set "
                "eos_token in tokenizer_config.json"
            )
        return found

    @cached_property
    def _cache(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found = json.loads(self._cache_file.read_text("utf-8"))
            if isinstance(found, dict):
                return found
        return {}

    @property
    def _cache_file(self) -> Path:
        key = {"format": _CACHE_FORMAT, "files": self.digests, "tokenizers": version("tokenizers")}
        return cache_folder() / "tokenizers" / f"{digest_json(key)}.json"

    def _cached(self, values: Mapping[str, Callable[[], Any]]) -> list[Any]:
        """Values that need the backend, from the cache file; others are computed and added to it at once."""
        missing = {name: compute() for name, compute in values.items() if name not in self._cache}
        if missing:
            self._cache.update(missing)
            with suppress(OSError):  # a cache that cannot be written costs loading the backend again
                self._cache_file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self._cache_file, json.dumps(self._cache))
        return [self._cache[name] for name in values]

    @cached_property
    def _transformers(self) -> Any:
        return load_tokenizer(str(self.folder))

    def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
        """As transformers renders it."""
        return self._transformers.apply_chat_template(*arguments, **options)

    def free(self) -> None:
        """Free the backend; it is read again when it is needed."""
        self.__dict__.pop("backend_tokenizer", None)

    def save_pretrained(self, folder: str) -> None:
        """Copy the files; ``UserError`` where they are not those that were read."""
        if _digests(self.folder) != self.digests:
            raise UserError(f"{self.folder}: the tokenizer's files have changed; run again")
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in self.digests:
            shutil.copyfile(self.folder / name, Path(folder) / name)


def open_tokenizer(name: str, revision: str = "main") -> Any:
    """The tokenizer of a Hugging Face id or a local folder, from its files where they are sufficient."""
    folder = _local_files(name, revision)
    return (folder and read_tokenizer(folder)) or load_tokenizer(name, revision)


def read_tokenizer(folder: Path) -> FileTokenizer | None:
    """The tokenizer in ``folder``; None where only transformers can load it."""
    for name in _FILES:
        check_size(folder / name)
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        special_file = folder / "special_tokens_map.json"
        special = json.loads(special_file.read_text("utf-8")) if special_file.is_file() else {}
        template_file = folder / "chat_template.jinja"
        written = template_file.read_text("utf-8") if template_file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or not isinstance(special, dict):
        return None
    template = config.get("chat_template") if written is None else written
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    foreign = any((folder / foreign).exists() for foreign in _FOREIGN)
    if foreign or name not in FILE_CLASSES or not isinstance(template, str | None):
        return None
    tokens = _special_tokens({**config, **special})
    if name == "GemmaTokenizer":
        tokens = {"mask": "<mask>"} | tokens
    if "eos" not in tokens or not (folder / TOKENIZER_FILE).is_file():
        return None
    return FileTokenizer(folder, _digests(folder), tokens, template)


def tokenizer_digest_of(tokenizer: Any) -> str:
    """``tokenizer_digest``, from the cache where the tokenizer is a ``FileTokenizer``."""
    return tokenizer.digest if isinstance(tokenizer, FileTokenizer) else tokenizer_digest(tokenizer)


def backend_json(tokenizer: Any) -> bytes:
    """The tokenizer's backend as JSON."""
    text: str = tokenizer.backend_tokenizer.to_str()
    return text.encode()


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Token by name; a token is written as text, or as an object with its `content`."""
    found = {name: config.get(f"{name}_token") for name in NAMED}
    texts = {
        name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()
    }
    return {name: token for name, token in texts.items() if isinstance(token, str)}


def _digests(folder: Path) -> dict[str, str]:
    return {name: file_xxh3(folder / name) for name in _FILES if (folder / name).is_file()}


def _local_files(name: str, revision: str) -> Path | None:
    """The folder with the tokenizer's files, downloaded where ``name`` is an id; None where that fails."""
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (half a second to import)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        patterns = [*_FILES, *_FOREIGN]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    # transformers is asked next, and its answer becomes the message.
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
