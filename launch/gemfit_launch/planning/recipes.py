"""Recipe registry: shipped recipes by name, your own by path."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from gemfit.config.yaml_source import YamlDocument, load, load_extended
from gemfit.errors import UserError, did_you_mean

SUFFIX = ".yaml"


def shipped() -> dict[str, Path]:
    """Name and file of every recipe that comes with gemfit, sorted by name."""
    root = Path(str(files("gemfit_launch.recipes")))
    found = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob(f"*{SUFFIX}")}
    return dict(sorted(found.items()))


def find_recipe(name: str) -> Path:
    """The file of a shipped name such as ``gemma3/1b-reference``, or of a path; else a ``UserError``."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    recipes = shipped()
    if name in recipes:
        return recipes[name]
    if name.endswith((SUFFIX, ".yml")) or path.is_absolute() or name.startswith("."):
        raise UserError(f"{name}: there is no such file")
    hint = did_you_mean(name, recipes) or "; shipped recipes: " + ", ".join(recipes)
    raise UserError(f"{name}: there is no such recipe{hint}")


def load_recipe_document(name: str) -> YamlDocument:
    """The YAML of a recipe on top of everything that it extends."""
    return load_extended(find_recipe(name), find_recipe)


def copied_text(path: Path, destination: Path) -> str:
    """The text of a recipe, with `extends: FILE` rewritten so that it resolves from ``destination``."""
    document = load(path)
    parent = path.parent / str(document.data.get("extends", ""))
    if "extends" not in document.data or not parent.is_file():
        return path.read_text("utf-8-sig")
    number = int(document.place(("extends",)).rpartition(":")[2])
    lines = path.read_text("utf-8-sig").splitlines(keepends=True)
    lines[number - 1] = f"extends: {_name_from(parent, destination.parent)}\n"
    return "".join(lines)


def _name_from(recipe: Path, folder: Path) -> str:
    for name, path in shipped().items():
        if path.samefile(recipe):
            return name
    return os.path.relpath(recipe, folder)
