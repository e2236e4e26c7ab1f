"""Commits in place of branches, so that a plan means the same tomorrow and on every node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemfit.core.hub_commit import cached_commit, dataset_commit
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe, SourceRecipe
from gemfit.schemas.recipe_model import ModelRecipe


def pin_revisions(recipe: Recipe) -> Recipe:
    """``recipe`` with the commits of its datasets, and those of model and tokenizer where they are cached.

    Datasets are looked up on the Hub. Models are not, because plans are also made where there is no network:
    one that is not in the Hub cache stays as it is named, and training checks its tokenizer against the pack.
    """
    return recipe.model_copy(update={"data": _pin_data(recipe.data), "model": _pin_model(recipe.model)})


def _pin_data(data: DataRecipe) -> DataRecipe:
    pinned: dict[str, Any] = {
        "sources": tuple(map(_pin_source, data.sources)),
        "validation": tuple(map(_pin_source, data.validation)),
    }
    if data.source is not None:
        pinned["hf_revision"] = _dataset_revision(data.source, data.hf_revision)
    return data.model_copy(update=pinned)


def _pin_source(source: SourceRecipe) -> SourceRecipe:
    return source.model_copy(update={"hf_revision": _dataset_revision(source.source, source.hf_revision)})


def _dataset_revision(source: str, revision: str | None) -> str | None:
    name = source.removeprefix("hf:")
    if name == source or Path(name).expanduser().exists():
        return revision
    return dataset_commit(name, revision or "main")


def _pin_model(model: ModelRecipe) -> ModelRecipe:
    pinned: dict[str, Any] = {}
    if model.id is not None:
        pinned["revision"] = _model_revision(model.id, model.revision)
    if model.tokenizer not in (None, model.id):
        pinned["tokenizer_revision"] = _model_revision(str(model.tokenizer), model.tokenizer_revision)
    return model.model_copy(update=pinned)


def _model_revision(name: str, revision: str) -> str:
    if Path(name).expanduser().exists():
        return revision
    return cached_commit("model", name, revision) or revision
