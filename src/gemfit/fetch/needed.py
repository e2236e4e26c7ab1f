"""Repositories on the Hub that a recipe needs, and which of their files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download

from gemfit.core.hub_commit import Kind
from gemfit.core.json_file import files_of_index
from gemfit.errors import UserError
from gemfit.schemas.recipe import Recipe

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
SUFFIXES = (".json", ".jinja")
"""Of configurations, tokenizers and chat templates."""
OTHERS = ("tokenizer.model", "README.md", "LICENSE")
FOLDERS = ("additional_chat_templates/",)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on the Hub, and what of it is needed."""

    kind: Kind
    name: str
    revision: str
    """As the recipe has it: a branch, a tag or a commit."""
    key: str
    """Key of the recipe that names it."""
    has_weights: bool = False
    gguf_file: str | None = None
    config: str | None = None
    """Configuration of a dataset."""


def needed_repositories(recipe: Recipe) -> list[Repository]:
    """Model, tokenizer and datasets of ``recipe`` that are on the Hub; local folders are not listed."""
    return [*_models(recipe), *dict.fromkeys(_datasets(recipe))]


def _models(recipe: Recipe) -> Iterator[Repository]:
    model = recipe.model
    if model.id is not None and not _is_local(model.id):
        yield Repository("model", model.id, model.revision, "model.id", True, model.gguf_file)
    tokenizer = model.tokenizer
    if tokenizer is not None and tokenizer != model.id and not _is_local(tokenizer):
        yield Repository("model", tokenizer, model.tokenizer_revision, "model.tokenizer")


def _datasets(recipe: Recipe) -> Iterator[Repository]:
    for source in recipe.data.all_sources:
        name = source.source.removeprefix("hf:")
        if name != source.source and not _is_local(name):
            revision = source.hf_revision or "main"
            yield Repository("dataset", name, revision, "data.source", config=source.hf_config)


def _is_local(name: str) -> bool:
    return Path(name).expanduser().exists()


def needed_files(repository: Repository, commit: str, there: Collection[str]) -> list[str]:
    """Files of ``there`` that training or packing reads; ``UserError`` without weights or data."""
    if repository.kind == "dataset":
        return [name for name in there if name.endswith(".json") or name == "README.md"] + _data_files(
            repository, commit
        )
    return _small_files(there) + (_weights(repository, commit, there) if repository.has_weights else [])


def _small_files(there: Collection[str]) -> list[str]:
    return [
        name
        for name in there
        if ("/" not in name and (name.endswith(SUFFIXES) or name in OTHERS)) or name.startswith(FOLDERS)
    ]


def _weights(repository: Repository, commit: str, there: Collection[str]) -> list[str]:
    place = f"{repository.key}: {repository.name}"
    if repository.gguf_file is not None:
        if repository.gguf_file not in there:
            raise UserError(f"{place}: has no file {repository.gguf_file}; check model.gguf_file")
        return [repository.gguf_file]
    if INDEX in there:
        index = Path(hf_hub_download(repository.name, INDEX, revision=commit))
        return files_of_index(index)
    if WHOLE not in there:
        raise UserError(f"{place}: has no {WHOLE}; use a repository with weights in safetensors")
    return [WHOLE]


def _data_files(repository: Repository, commit: str) -> list[str]:
    """Files of all splits of the dataset's configuration, as ``datasets`` resolves them."""
    from datasets import load_dataset_builder  # noqa: PLC0415  (a second to import, and models do not need it)

    try:
        builder = load_dataset_builder(repository.name, repository.config, revision=commit)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"hf:{repository.name}: {first}; check data.source and data.hf_config") from None
    files = builder.config.data_files or {}
    prefix = f"hf://datasets/{repository.name}@{commit}/"
    return sorted({str(url).removeprefix(prefix) for urls in files.values() for url in urls})
