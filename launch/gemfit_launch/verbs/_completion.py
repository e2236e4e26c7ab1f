"""Parameter types with shell completion: recipe names, keys of settings, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem
from pydantic import BaseModel

from gemfit.schemas.recipe import Recipe
from gemfit_launch.planning.recipes import shipped


class RecipeName(click.ParamType[str]):
    """The name of a shipped recipe, or the path of a YAML file."""

    name = "recipe"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = _items(shipped(), incomplete)
        # In zsh and fish an item of type file replaces all other items.
        return names or [CompletionItem(incomplete, type="file")]


class SettingKey(click.ParamType[str]):
    """``KEY=VALUE``, where KEY is a dotted field of the recipe."""

    name = "setting"

    def __init__(self, *, suffix: str = "=") -> None:
        self._suffix = suffix

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _items((key + self._suffix for key in recipe_keys()), incomplete)


class Checkpoint(click.ParamType[str]):
    """A step, ``latest``, ``best`` or ``base``; where ``folder`` is set, any model folder too."""

    name = "checkpoint"

    def __init__(self, *, base: bool, folder: bool) -> None:
        self._names = ("latest", "best", *(["base"] if base else []))
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not (text in self._names or text.isdecimal() or self._folder):
            self.fail(f"{text!r} is not a step or one of {', '.join(self._names)}", param, ctx)
        return text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _items(self._names, incomplete)


def recipe_keys() -> Iterator[str]:
    """Dotted keys of a recipe, in its order; ``strategy`` has the fields of all strategies."""
    return iter(dict.fromkeys(_keys(Recipe, "")))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        plain = not inner or prefix + name == "strategy"  # which also has short names, such as zero3
        yield from [prefix + name] if plain else []
        for part in inner:
            yield from _keys(part, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif getattr(annotation, "__origin__", None) not in (tuple, list):
        for part in getattr(annotation, "__args__", ()):
            yield from _models(part)


def _items(values: Any, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]
