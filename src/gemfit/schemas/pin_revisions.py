"""Commits in place of branches, so that a plan means the same tomorrow and on every node, from any folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemfit.core.hub_commit import cached_commit, dataset_commit
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe, SourceRecipe
from gemfit.schemas.recipe_model import ModelRecipe


def pin_revisions(recipe: Recipe, environment: Mapping[str, str] = os.environ) -> Recipe:
    """``recipe`` with the commits of its datasets, and those of model and tokenizer where they are cached.

    What is in a local folder but could be on the Hub gets its absolute path. In another working folder a
    relative one would be nothing, or the name of somebody's model.

    ``environment``, of the process that will read them, names the Hub cache, and says whether it is offline.
    Datasets are looked up on the Hub. Models are not, because plans are also made where there is no network:
    one that is not in the Hub cache stays as it is named, and training checks its tokenizer against the pack.
    """
    return recipe.model_copy(
        update={"data": _pin_data(recipe.data, environment), "model": _pin_model(recipe.model, environment)}
    )


def _pin_data(data: DataRecipe, environment: Mapping[str, str]) -> DataRecipe:
    pinned: dict[str, Any] = {
        "sources": tuple(_pin_source(source, environment) for source in data.sources),
        "validation": tuple(_pin_source(source, environment) for source in data.validation),
    }
    if data.source is not None:
        pinned["source"], pinned["hf_revision"] = _pin_dataset(data.source, data.hf_revision, environment)
    return data.model_copy(update=pinned)


def _pin_source(source: SourceRecipe, environment: Mapping[str, str]) -> SourceRecipe:
    name, revision = _pin_dataset(source.source, source.hf_revision, environment)
    return source.model_copy(update={"source": name, "hf_revision": revision})


def _pin_dataset(source: str, revision: str | None, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """A dataset with its commit, a folder behind ``hf:`` with its absolute path; other files as they are."""
    name = source.removeprefix("hf:")
    if name == source:
        return source, revision
    if (folder := Path(name).expanduser()).exists():
        return f"hf:{folder.absolute()}", revision
    return source, dataset_commit(name, revision or "main", environment)


def _pin_model(model: ModelRecipe, environment: Mapping[str, str]) -> ModelRecipe:
    pinned: dict[str, Any] = {}
    if model.id is not None:
        pinned["id"], pinned["revision"] = _pin_name(model.id, model.revision, environment)
    if model.tokenizer is not None:
        name, revision = _pin_name(model.tokenizer, model.tokenizer_revision, environment)
        pinned["tokenizer"] = name
        if model.tokenizer != model.id:
            pinned["tokenizer_revision"] = revision
    return model.model_copy(update=pinned)


def _pin_name(name: str, revision: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The absolute path of a local folder, or a name on the Hub with its commit."""
    folder = Path(name).expanduser()
    if folder.exists():
        return str(folder.absolute()), revision
    return name, cached_commit("model", name, revision, environment) or revision
