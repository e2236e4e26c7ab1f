"""YAML with positions: every value knows the file and line that it came from.

YAML 1.2 (ruamel.yaml): ``1e-5`` is a number and ``no`` is text. Duplicate keys are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gemfit.errors import UserError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data, and for each key path where it was written."""

    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    origin: str = ""

    def place(self, path: KeyPath) -> str:
        """``file:line`` of ``path``, or of the closest parent that was written down."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.origin

    def over(self, base: YamlDocument) -> YamlDocument:
        """This document on top of ``base``: mappings merge key by key, all else is replaced."""
        places = dict(base.places)
        data = _merge(base.data, self.data, (), places)
        return YamlDocument(data, places | self.places, self.origin)


def load(path: Path) -> YamlDocument:
    """Read one YAML mapping; anything else is a ``UserError`` with its position."""
    try:
        # utf-8-sig: an editor's byte-order mark is no part of the first key.
        return parse(path.read_text("utf-8-sig"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def parse(text: str, origin: str) -> YamlDocument:
    """Read YAML text; ``origin`` names it in errors."""
    try:
        tree = YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        raise UserError(_marked(error, origin) + "; remove one of them") from None
    except MarkedYAMLError as error:
        raise UserError(_marked(error, origin)) from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{origin}: is not YAML: {str(error).splitlines()[0]}") from None
    if tree is None:
        return YamlDocument({}, {}, origin)
    if not isinstance(tree, Mapping):
        raise UserError(f"{origin}:1: expected `key: value` lines, found {_kind(tree)}")
    places: dict[KeyPath, str] = {}
    return YamlDocument(_plain(tree, (), origin, places), places, origin)


def load_extended(path: Path, find: Callable[[str], Path]) -> YamlDocument:
    """Read ``path`` and whatever its ``extends:`` names, recursively; the nearer file wins.

    ``find`` turns a name that is not a file in the folder of ``path`` into a path. Cycles are refused.
    """
    return _extended(path, find, ())


def _extended(path: Path, find: Callable[[str], Path], above: tuple[Path, ...]) -> YamlDocument:
    document = load(path)
    if "extends" not in document.data:
        return document
    name, place = document.data.pop("extends"), document.place(("extends",))
    if not isinstance(name, str):
        raise UserError(f"{place}: extends: expected the name of one recipe, found {name!r}")
    seen = (*above, path.resolve())
    sibling = path.parent / name
    parent = sibling if sibling.is_file() else find(name)
    if parent.resolve() in seen:
        chain = " -> ".join(p.name for p in (*seen, parent))
        raise UserError(f"{place}: extends: the recipes extend each other in a circle: {chain}")
    return document.over(_extended(parent, find, seen))


def _merge(base: Any, top: Any, path: KeyPath, places: dict[KeyPath, str]) -> Any:
    if not _mergeable(base, top):
        for old in [p for p in places if p[: len(path)] == path]:
            del places[old]
        return top
    merged = dict(base)
    for key, value in top.items():
        merged[key] = _merge(base[key], value, (*path, key), places) if key in base else value
    return merged


def _mergeable(base: Any, top: Any) -> bool:
    """Mappings merge, unless they are of different kinds: ZeRO's stage means nothing to FSDP."""
    both = isinstance(base, dict) and isinstance(top, dict)
    return both and top.get("kind", base.get("kind")) == base.get("kind")


def _plain(node: Any, path: KeyPath, origin: str, places: dict[KeyPath, str]) -> Any:
    if isinstance(node, CommentedMap):
        for key in node:
            places[(*path, key)] = f"{origin}:{node.lc.key(key)[0] + 1}"
        return {str(key): _plain(value, (*path, key), origin, places) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            places[(*path, index)] = f"{origin}:{node.lc.item(index)[0] + 1}"
        return [_plain(value, (*path, index), origin, places) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    # ruamel keeps formatting in subclasses of int, float and str; the data is what we want.
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _kind(tree: Any) -> str:
    return "a list" if isinstance(tree, list) else f"the value {str(tree)[:40]!r}"


def _marked(error: MarkedYAMLError, origin: str) -> str:
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark else ""
    return f"{origin}{line}: {(error.problem or error.context or 'is not YAML').splitlines()[0]}"
